"""``python -m dicom_node``: the same as the command ``dicom-node``."""

from dicom_node.cli.main import main

if __name__ == "__main__":
    main()
