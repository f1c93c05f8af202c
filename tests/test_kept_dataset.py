"""Pictures that stay in memory."""

import torch
from mmengine.dataset import BaseDataset

from mmtoken.registry import DATASETS


def test_each_picture_is_made_once_and_stays_as_it_was():
    made = []

    class Counting(BaseDataset):
        METAINFO = dict(classes=('a',))

        def load_data_list(self):
            return [dict(number=i) for i in range(3)]

    def transform(info):
        made.append(info['number'])
        return dict(inputs=torch.full((2,), info['number']))

    dataset = DATASETS.build(dict(type='mmtoken.KeptDataset', dataset=Counting(pipeline=[transform])))
    dataset.full_init()
    assert len(dataset) == 3 and dataset.metainfo['classes'] == ('a',) and dataset.get_data_info(2)['number'] == 2
    dataset[1]['inputs'].add_(5)  # a model may change what it is given
    assert [int(dataset[i]['inputs'][0]) for i in (1, 0, 1)] == [1, 0, 1]
    assert made == [1, 0]
