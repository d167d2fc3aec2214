"""What figures are called in a report, and what each means in one sentence."""

from vidseg.inference.comparison import ACCURACY, CONSISTENCY, SPEED, VIDEO_CONSISTENCY

TITLES = {
    figure.key: figure.title for figure in (*ACCURACY, *CONSISTENCY, *VIDEO_CONSISTENCY, SPEED)
}

MEANINGS = {
    "mean_iou": "Intersection over union of each class, counts summed over all frames, then the "
    "mean over the classes that occur.",
    "boundary_mean_iou": "The same over the pixels within 5 px of another true class, where "
    "segmenters err most.",
    "weighted_iou": "IoU of each class weighted by its share of the true pixels.",
    "mean_video_iou": "Mean IoU of each video by itself, then the mean over the videos.",
    "pixel_accuracy": "Share of the labelled pixels that have the right class.",
    "mean_class_accuracy": "Share of each true class that was found, then the mean over the "
    "classes in the truth.",
    "temporal_consistency": "Temporal consistency: mean IoU between each frame's labels and the "
    "previous frame's, carried along the motion. 100 % is steady, which is not to say right.",
    "flicker": "Share of the pixels whose class changes along the motion. 0 % is steady.",
    "vc8": "Video consistency: of the pixels whose true class stays through 8 frames, the share "
    "whose label stays too, right or wrong; mean over all windows of 8 frames.",
    "vc16": "The same for windows of 16 frames.",
    "vc8_correct": "As VC8, but the label that stays must be the true class.",
    "vc16_correct": "As VC16, but the label that stays must be the true class.",
    "truth_temporal_consistency": "TC of the true labels: what errors of the motion and of the "
    "labelling would cost a perfect model.",
    "truth_flicker": "Flicker of the true labels: what a perfect model would show.",
    "ms_per_frame": "Time of the network for one frame, without reading, resizing and scoring.",
}
