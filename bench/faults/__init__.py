"""Kills searches at every boundary and at random moments, and examines what is left.

python -m bench.faults                 500 kills and a soak of 200 trials (about 20 minutes)
python -m bench.faults --kills 30 --soak 0
python -m bench.faults --kills 200 --fake 0 --real 0 --soak 0 --save part-1.json
python -m bench.faults --sum part-1.json part-2.json    the table of several parts
"""
