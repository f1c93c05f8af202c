"""Search of a method's own arguments for a target."""

from typing import Any


def draw(trial: Any, key: str, values: Any) -> Any:
    """One value out of a description, see :meth:`mmtoken.core.Reducer.search_space`.

    Args:
        trial (optuna.Trial): That suggests it.
        key (str): Name of the argument.
        values (tuple | list): Its description.
    """
    if isinstance(values, list):
        texts = [repr(value) for value in values]  # storages keep texts and numbers only
        return values[texts.index(trial.suggest_categorical(key, texts))]
    if any(isinstance(value, (tuple, list)) for value in values):
        return [draw(trial, f'{key}.{i}', value) for i, value in enumerate(values)]
    low, high = values
    return trial.suggest_int(key, low, high) if isinstance(low, int) else trial.suggest_float(key, low, high)
