"""Trains the bundle ``chest_xray`` on public chest radiographs, and measures it on other patients.

    python -m ai.training.chest train --data DIR --seed 1
    python -m ai.training.chest crossvalidate --data DIR --seed 1
    python -m ai.training.chest hold-out --data DIR --seed 1 --fold 0 --out HELD

``DIR`` holds ``labels.csv`` and the images that it names. `ai.training.chest.data` describes its other files.
"""
