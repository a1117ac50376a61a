#!/bin/sh
# Removes what the local example made (`make run-clean`), after a yes.
set -eu
cd "$(dirname "$0")"
echo "This removes the example's CA, its seal and all its certificates:"
made="data seal mesh bookapi tls.key tls.csr tls.crt"
for path in $made; do
	[ -e "$path" ] && echo "  examples/local/$path"
done
printf 'Remove them? [y/N] '
read -r answer || answer=
case $answer in
y | yes | Y) rm -rf $made ;;
*) echo "nothing was removed" ;;
esac
