"""What integers would lose of values in certain places, estimated from what calibration measured."""
