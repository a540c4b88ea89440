"""What is checked before a release and takes too long for every run; `bash dev.sh release-check` calls it."""
