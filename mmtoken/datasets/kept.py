"""Pictures that stay in memory."""

import copy
from typing import Any

from mmengine.dataset import BaseDataset

from mmtoken.registry import DATASETS


@DATASETS.register_module()
class KeptDataset:
    """Keeps what another dataset gives in memory, so that its pipeline runs once for each picture.

    It is for pipelines that take time and draw nothing at random, such as that of
    :class:`mmtoken.hmr.data.SyntheticCrowd`. Each worker of a data loader keeps what it loads; a single one keeps all.

    Args:
        dataset (dict | BaseDataset): The other dataset, or its config.
    """

    def __init__(self, dataset: dict | BaseDataset):
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.kept: dict[int, Any] = {}

    @property
    def metainfo(self) -> dict:
        """Meta information of the other dataset."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Loads the annotations."""
        self.dataset.full_init()

    def get_data_info(self, idx: int) -> dict:
        """Returns the annotations of a picture."""
        return self.dataset.get_data_info(idx)

    def __getitem__(self, idx: int) -> Any:
        """Returns a copy of what the pipeline gave."""
        if idx not in self.kept:
            self.kept[idx] = self.dataset[idx]
        return copy.deepcopy(self.kept[idx])

    def __len__(self) -> int:
        return len(self.dataset)
