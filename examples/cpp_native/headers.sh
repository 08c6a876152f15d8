#!/bin/sh
# ONNX Runtime's C and C++ headers (MIT) from a public package, for systems whose own packages have none: headers.sh DIR
# The Unity plugin's npm package carries them, and 150 MB of libraries that are thrown away.
set -eu
if [ -f "$1/onnxruntime_cxx_api.h" ]; then exit 0; fi
mkdir -p "$1"
target=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack --silent com.github.asus4.onnxruntime@0.4.9 > /dev/null
tar -xzf ./*.tgz --wildcards 'package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64_x86_64-simulator/onnxruntime.framework/Headers/*'
cp package/Plugins/*/onnxruntime.xcframework/*/onnxruntime.framework/Headers/onnxruntime_*.h "$target"
