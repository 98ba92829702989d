#!/bin/bash
# Restore a folder of pictures on all hosts of a TPU slice:
#   TPU_NAME=mine ZONE=us-central2-b examples/tpu_pod.sh /mnt/shared/pictures /mnt/shared/out
# diffinv is installed on each host (pip install '.[tpu]'), and both folders lie on a disk that all hosts mount, by NFS
# or as Filestore. A process a host; --devices spreads its batches over the four chips of the host.
exec gcloud compute tpus tpu-vm ssh "${TPU_NAME:?}" --zone="${ZONE:?}" --worker=all --command="\
  diffinv reconstruct --distributed --devices=4 --dtype=bfloat16 --batch_size=128 \
  --prior='${PRIOR:-photo}' --measurement='$1' --task='${TASK:-super_resolution}' --output='$2'"
