#!/bin/sh
# Removes what the local example made (`make run-clean`), after a yes.
set -eu
cd "$(dirname "$0")"
echo "This removes the example's CA, its seal and all its certificates:"
for dir in data seal mesh; do
	[ -e "$dir" ] && echo "  examples/local/$dir"
done
printf 'Remove them? [y/N] '
read -r answer || answer=
case $answer in
y | yes | Y) rm -rf data seal mesh ;;
*) echo "nothing was removed" ;;
esac
