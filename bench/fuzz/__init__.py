"""Feeds changed inputs to everything that reads strangers' files; none may end in a traceback.

python -m bench.fuzz                       200,000 inputs
python -m bench.fuzz --minutes 5 --only study,rows
"""
