"""The journal: what the index holds and no image says, in files of its own, so that an index that is lost can be made
anew with it.

Images are found again in the spool, each with its record. What was read, delivered, committed and withdrawn is in no
image: each committed change of the tables that hold it is appended to the journal.

Below ``data_dir/journal``: ``00000001.base`` holds every row of these tables at one moment, and ``00000001.log`` each
row that was changed since the file was begun, which is before that moment. Both are lines of JSON: ``["jobs", {column:
value}]``, or ``["jobs", {key}, "gone"]`` for a deleted row. A later line of a row counts. A pair with a higher number
takes the place of the one before as soon as its base is whole.
"""
