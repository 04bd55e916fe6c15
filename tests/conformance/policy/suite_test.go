// The conformance suite of ClusterNetworkPolicy.
//
// The specifications are upstream's and unchanged. This file starts them, with those of named ports and of
// nodes as peers, which are optional.
package policy

import (
	"flag"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/network-policy-api/conformance/tests"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"
)

var kubeconfig = flag.String("kubeconfig", "", "file with the address and the credentials of the cluster")

func TestClusterNetworkPolicy(t *testing.T) {
	specifications := suite.New(options(t))
	specifications.Setup(t)
	specifications.Run(t, tests.ConformanceTests)
}

func options(t *testing.T) suite.Options {
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		t.Fatalf("kubeconfig: %v", err)
	}
	c, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatalf("client: %v", err)
	}
	if err := v1alpha2.Install(c.Scheme()); err != nil {
		t.Fatalf("scheme: %v", err)
	}
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatalf("client: %v", err)
	}
	return suite.Options{
		Client:                     c,
		ClientSet:                  clientset,
		KubeConfig:                 *config,
		CleanupBaseResources:       true,
		EnableAllSupportedFeatures: true,
	}
}
