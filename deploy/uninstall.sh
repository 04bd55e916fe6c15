#!/bin/sh
# Removes Sluice from the cluster and from every node: deploy/uninstall.sh
# Pods lose their network until another CNI plugin is installed and they are created again.
# Can be repeated. The image is that of the DaemonSet; IMAGE replaces it, if the DaemonSet is deleted already.
set -eu
cd "$(dirname "$0")"
namespace=sluice-uninstall

if [ -z "${IMAGE:-}" ]; then
	IMAGE=$(kubectl -n sluice-system get daemonset sluice --ignore-not-found \
		-o 'jsonpath={.spec.template.spec.containers[0].image}')
fi

# The agent first: it would restore what is removed.
kubectl delete -k . --ignore-not-found --wait=true
sed "s|localhost/sluice:dev|${IMAGE:-localhost/sluice:dev}|" uninstall.yaml | kubectl apply -f -
if ! kubectl -n $namespace rollout status daemonset/sluice-uninstall --timeout=180s; then
	echo "Not every node is clean. The cause is in the log or in the events of the pods that are not ready:" >&2
	kubectl -n $namespace get pods -o wide >&2
	echo "kubectl -n $namespace logs POD -c cleanup; kubectl -n $namespace describe pod POD" >&2
	exit 1
fi
kubectl delete -f uninstall.yaml --wait=true
