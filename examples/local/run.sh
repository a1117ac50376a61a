#!/bin/sh
# Starts the local example in the foreground (`make run`). When it answers, says what to try.
set -eu
config=examples/local/meshca.yaml

# Another one runs already: it would answer in place of this one, which says so when it starts.
if bin/meshca status --config $config >/dev/null 2>&1; then
	exec bin/meshca serve --config $config --log text
fi

# The one that waits ends when the server does: the server's process takes this shell's place.
(
	until bin/meshca status --config $config >/dev/null 2>&1; do
		kill -0 $$ 2>/dev/null || exit 0
		sleep 0.1
	done
	cat <<-'TRY'
		Try in another terminal, and watch here:
		  cp examples/local/other-ca.crt examples/local/mesh/pgadmin/ca.crt
		  bin/meshca verify --config examples/local/meshca.yaml
		  bin/meshca status --config examples/local/meshca.yaml
		  cd examples/local && bin/meshca issue bookapi
	TRY
) &
exec bin/meshca serve --config $config --log text
