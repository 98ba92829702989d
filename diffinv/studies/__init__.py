"""Which runs, which results? Studies as data, their pictures, measurements, chains, marks, folders and searches."""
