"""What every other folder stands on: records, recipes, errors, files and logs. Imports nothing of ours."""
