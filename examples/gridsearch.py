"""scikit-learn on any pool: a grid search, a cross-validation, a forest and what its features are worth.

usage: gridsearch.py [--ncores N | --mpi | --backend NAME]

The numbers are the same wherever it runs: on one core (the default), on N workers of a MultiPool, on the ranks of
`mpirun -n 4 python gridsearch.py --mpi`, or with one of joblib's own backends (`--backend loky`).
"""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

import schwimmbad_go as schwimmbad


def study() -> None:
    """Everything that scikit-learn does here in parallel goes through joblib's active backend."""
    from sklearn.datasets import load_wine
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    X, y = load_wine(return_X_y=True)
    grid = {"svc__C": [0.01, 0.1, 1.0, 10.0], "svc__gamma": [0.01, 0.1, 1.0]}
    search = GridSearchCV(make_pipeline(StandardScaler(), SVC()), grid, cv=4).fit(X, y)
    print("grid search", search.best_params_, search.cv_results_["mean_test_score"].tolist())
    print("cross-validation", cross_val_score(search.best_estimator_, X, y, cv=6).tolist())
    forest = RandomForestClassifier(40, random_state=1).fit(X, y)
    print("forest", forest.feature_importances_.tolist(), forest.predict_proba(X[::50]).tolist())
    found = permutation_importance(forest, X, y, n_repeats=4, random_state=2)
    print("permutations", found.importances_mean.tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--ncores", type=int, default=1, help="workers of a MultiPool")
    group.add_argument("--mpi", action="store_true", help="the ranks of an MPI run")
    group.add_argument("--backend", help="a backend of joblib's, with two workers: loky, threading, schwimmbad")
    arguments = parser.parse_args()
    import joblib

    where: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    with contextlib.ExitStack() as stack:
        if arguments.backend is not None:
            schwimmbad.register_joblib_backend()
            where = joblib.parallel_config(arguments.backend, n_jobs=2)
        elif arguments.mpi or arguments.ncores > 1:
            pool = stack.enter_context(schwimmbad.choose_pool(mpi=arguments.mpi, processes=arguments.ncores))
            schwimmbad.register_joblib_backend()
            where = joblib.parallel_config("schwimmbad", pool=pool)
        stack.enter_context(where)
        study()


if __name__ == "__main__":
    main()
