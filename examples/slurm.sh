#!/bin/bash
# Restore a folder of pictures on the GPUs of two nodes: sbatch examples/slurm.sh PICTURES OUTPUT
# A job that was stopped, or lost a node, goes on when it is given again, with as many nodes as there are then.
#SBATCH --job-name=diffinv
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=diffinv-%j.log

# A task a GPU: JAX gives each its own. PICTURES and OUTPUT are on a file system that all nodes share.
# --kill-on-bad-exit=0: each process says by itself what became of it.
exec srun --kill-on-bad-exit=0 --label diffinv reconstruct --distributed \
  --prior="${PRIOR:-photo}" --measurement="$1" --task="${TASK:-super_resolution}" --batch_size=32 --output="$2"
