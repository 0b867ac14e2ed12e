"""Kills searches at every boundary and at random moments, and examines what is left.

python -m bench.faults                 500 kills and a soak of 200 trials (about 20 minutes)
python -m bench.faults --kills 30 --soak 0
"""
