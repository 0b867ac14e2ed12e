"""The faults that were once found, and the tests that hold them; `make faults` runs these."""

from __future__ import annotations

FAULTS: dict[str, tuple[str, ...]] = {
    "1 rows or weights change in mid-run": (
        "tests/worker/test_identity.py::test_later_process_of_a_run_must_load_the_same",
        "tests/worker/test_identity.py::test_next_run_is_compared_with_the_record",
        "tests/worker/test_identity.py::test_code_of_the_objective_must_stay_the_same",
        "tests/train/test_fingerprints.py::test_weights_count_by_all_of_their_bytes",
    ),
    "2 two databases share files": (
        "tests/search/test_search_location.py::test_two_studies_share_no_file",
        "tests/search/test_search_location.py::test_names_that_differ_by_case_have_folders_of_their_own",
    ),
    "3 a path in the record is trusted": (
        "tests/store/test_store_kept_files.py::test_path_out_of_the_record_never_deletes_a_foreign_folder",
        "tests/store/test_store_kept_files.py::test_link_inside_the_folder_is_not_followed",
        "tests/store/test_store_kept_files.py::test_link_out_of_the_databases_folder_is_refused",
        "tests/search/test_search_location.py::test_name_of_a_foreign_study_leads_out_of_no_folder",
        "tests/cli/test_merge_target.py::test_folder_with_other_things_is_kept",
    ),
    "4 one study by two names": (
        "tests/faults/test_whole_runs.py::test_database_reached_through_a_link_is_the_same_study",
        "tests/store/test_store_disk_faults.py::test_database_with_two_names_is_refused",
        "tests/search/test_search_location.py::test_spellings_of_one_server_share_a_folder",
        "tests/store/test_store_disk_faults.py::test_database_that_is_mounted_as_a_single_file_is_refused",
    ),
    "5 database deleted in mid-run": (
        "tests/faults/test_whole_runs.py::test_database_deleted_in_mid_run_ends_the_run_in_one_message",
        "tests/store/test_store_disk_faults.py::test_record_is_refused_after_the_database_was_replaced",
        "tests/store/test_store_disk_faults.py::test_record_is_refused_after_the_log_was_deleted_and_nothing_is_lost",
        "tests/worker/test_process.py::test_death_is_reported_if_the_log_was_moved_away",
    ),
    "6 odd values in the record": (
        "tests/faults/test_damaged_records.py::test_no_value_in_the_record_ends_a_command_in_a_traceback",
        "tests/faults/test_damaged_records.py::test_damaged_trial_does_not_hide_the_others",
        "tests/faults/test_second_cases.py::test_damaged_value_of_any_table_is_left_out",
    ),
    "7 tags and numbers that YAML refuses": (
        "tests/parsing/test_parsing.py::test_tag_that_a_value_does_not_have_is_a_parse_error_or_a_value",
        "tests/parsing/test_parsing.py::test_list_of_a_million_entries_is_refused_without_parsing_it",
    ),
    "8 the clock is set": (
        "tests/worker/test_clock.py::test_hours_do_not_follow_the_clock",
        "tests/worker/test_clock.py::test_duration_of_a_trial_does_not_follow_the_clock",
        "tests/cli/test_times_of_day.py::test_morning_comes_at_its_time_when_the_clock_is_changed",
        "tests/worker/test_run_log.py::test_log_of_a_later_run_has_a_later_name_when_the_clock_is_set_back",
    ),
    "9 folders of killed trials": (
        "tests/upkeep/test_db.py::test_adapters_of_killed_trials_are_found_and_removed",
        "tests/worker/test_context.py::test_adapters_that_no_trial_keeps_are_removed",
        "tests/faults/test_second_cases.py::test_leftovers_of_killed_conversions_are_removed",
    ),
    "10 full or read-only disk": (
        "tests/store/test_store_disk_faults.py::test_results_are_read_on_a_full_disk",
        "tests/upkeep/test_db.py::test_read_only_disk_is_checked_exported_and_backed_up",
        "tests/upkeep/test_db.py::test_folder_of_files_that_may_not_be_read_is_one_fault",
        "tests/store/test_store_disk_faults.py::test_user_without_a_home_folder_reads_a_named_database",
        "tests/store/test_store_disk_faults.py::test_home_of_an_unknown_user_is_one_message",
        "tests/train/test_checkpoint.py::test_a_full_disk_ends_no_training",
        "tests/test_resources.py::test_earlier_file_stays_if_the_disk_is_full",
    ),
    "11 conversion fails": (
        "tests/faults/test_conversion.py::test_failed_conversion_leaves_nothing_and_its_remedy_follows_the_cause",
    ),
    "12 Optuna's tables of another version": (
        "tests/search/test_search_storage.py::test_search_continues_from_the_record",
        "tests/upkeep/test_db.py::test_optunas_tables_are_written_again_from_the_record",
    ),
    "13 escape sequences in names": (
        "tests/test_shown_text.py::test_control_character_is_removed",
        "tests/test_shown_text.py::test_commands_print_through_the_console_alone",
    ),
    "14 password in a URL's query": (
        "tests/test_shown_text.py::test_error_about_a_database_shows_no_secret",
        "tests/worker/test_run_log.py::test_secret_in_a_message_does_not_reach_the_log",
        "tests/test_shown_text.py::test_traceback_shows_no_secret",
    ),
    "long lock": ("tests/faults/test_long_lock.py::test_write_waits_for_a_long_lock_and_warns",),
    "output closed": (
        "tests/worker/test_run.py::test_search_goes_on_when_nobody_reads_its_output",
        "tests/cli/test_hostile_machine.py::test_search_goes_on_when_its_output_fails",
        "tests/cli/test_hostile_machine.py::test_full_pipe_that_does_not_block_loses_no_line",
    ),
    "killed while the first model loads": (
        "tests/worker/test_run.py::test_process_killed_while_the_first_model_loads_is_started_again",
    ),
    "a file with 500 faults": (
        "tests/cli/test_bad_input.py::test_many_faults_are_counted_after_the_first_twenty",
    ),
    "hours of a queued study": (
        "tests/worker/test_card_share.py::test_service_starts_a_study_with_the_shorter_of_its_limits",
    ),
    "merge with another base": (
        "tests/train/test_merge.py::test_other_base_than_that_of_the_search_is_refused_unmeasured_too",
    ),
    "supervisor dead while an event is sent": (
        "tests/worker/test_process.py::test_a_process_without_a_supervisor_ends_without_a_traceback",
    ),
    "damaged adapter": (
        "tests/cli/test_samples_and_chat.py::"
        "test_damaged_adapter_is_refused_with_its_file_and_a_remedy",
        "tests/train/test_generate.py::test_adapter_that_peft_cannot_read_is_one_sentence",
    ),
    "Ctrl-C counted as a fault": (
        "tests/worker/test_recorded_run.py::test_trial_that_ctrl_c_ended_is_no_fault",
    ),
    "Ctrl-C in the first moments": (
        "tests/cli/test_interrupts.py::test_ctrl_c_raises_only_while_the_command_runs",
        "tests/cli/test_interrupts.py::test_ctrl_c_that_meets_a_finaliser_is_raised_again",
        "tests/worker/test_process.py::test_ctrl_c_reaches_no_training_process_that_is_still_starting",
    ),
    "killed while Optuna makes its tables": (
        "tests/search/test_search_storage.py::test_index_that_a_killed_process_left_out_is_created",
    ),
}
