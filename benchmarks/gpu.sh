#!/usr/bin/env bash
# What one GPU does: the benchmarks at the sizes of Llama-3.2-1B and 3B in bfloat16, with random weights, and float32 on
# the GPU against the CPU for exactness. Needs an environment with puma_hub[test] and a torch that sees the GPU; needs no
# network. With the demo's models in the cache, or a network, the demo runs too.
#
#   benchmarks/gpu.sh [FOLDER FOR THE REPORTS]
set -uo pipefail
out=${1:-gpu-report}
python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$out"
"$python" -c 'import torch; assert torch.cuda.is_available(), "torch sees no GPU"; print(torch.__version__, torch.cuda.get_device_name())' || exit 1
run() { "$python" -m puma_hub.cli.main "$@"; }
failed=0
for model in random-llama-3.2-1b random-llama-3.2-3b random-gemma-3-1b; do
  run bench step start prefix score --model "$model" --dtype bfloat16 --device cuda --seconds 60 \
    --json "$out/$model.json" | tee "$out/$model.md" || failed=1
done
(cd "$root" && "$python" -m pytest -q -p no:cacheprovider tests -k "cuda or gpu") 2>&1 | tee "$out/tests.txt" || failed=1
run demo --out "$out/demo" --json "$out/demo.json" > "$out/demo.txt" 2>&1 || echo "the demo did not run, see $out/demo.txt"
exit $failed
