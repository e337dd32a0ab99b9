#!/bin/sh
# Makes the platform and the three merchants of compose.yml, once. Their orders: orders/NAME.csv beside this script,
# readable by everybody or by user 10001. What costs privacy you decide (docs/deployment.md, "Docker"):
#   EPSILON=3 DELTA=1e-5 DECLARED_CUSTOMERS=250 PERIOD=2026-h2 PERIOD_ENDS=2026-12-31 sh deploy/docker/setup.sh
# A merchant that exists is left as it is, and the script ends there.
set -eu
cd "$(dirname "$0")"
: "${EPSILON:?the budget of each merchant for the period}" "${DELTA:?the probability that epsilon may fail}"
: "${DECLARED_CUSTOMERS:?how many customers each merchant has at least}"
: "${PERIOD:?a name for the time that the budget is for}" "${PERIOD_ENDS:?its last day, as 2026-12-31}"

for name in bakery florist grocer; do
    [ -r "orders/$name.csv" ] || { echo "There is no orders/$name.csv in $PWD; put the orders there." >&2; exit 2; }
done
exchange=$(mktemp -d)
trap 'rm -rf "$exchange"' EXIT
chmod 755 "$exchange" # the containers' user reads it; only public files come here

docker compose build
docker compose run --rm platform init /data --name "Example platform" --address platform:8443 --san localhost
docker compose run --rm --no-TTY --entrypoint cat platform /data/invitation.toml >"$exchange/invitation.toml"

for name in bakery florist grocer; do
    docker compose run --rm --volume "$exchange:/exchange:ro" "$name" init /data \
        --invitation /exchange/invitation.toml --name "$name" --population "customers of $name" \
        --orders /orders/orders.csv --epsilon "$EPSILON" --delta "$DELTA" \
        --declared-customers "$DECLARED_CUSTOMERS" --period "$PERIOD" --period-ends "$PERIOD_ENDS"
    docker compose run --rm --no-TTY --entrypoint cat "$name" /data/keys/node.pub >"$exchange/$name.pub"
    docker compose run --rm --volume "$exchange:/exchange:ro" platform merchants add "$name" \
        --key "/exchange/$name.pub" --home /data
done
echo "Made. Start everything: docker compose --file $PWD/compose.yml up --detach"
