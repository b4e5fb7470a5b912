# Everything a newcomer needs: `make demo`, `make test`. Each sets up its own virtual environment.
