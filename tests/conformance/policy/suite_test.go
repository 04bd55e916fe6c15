// The conformance suite of ClusterNetworkPolicy.
//
// The specifications are upstream's and unchanged. This file starts those that match a regular
// expression, skips those that an earlier run has passed, and writes the result of each as soon as it
// ends. Named ports and nodes as peers, which are optional, are included.
package policy

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/network-policy-api/conformance/tests"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"
)

// result is one line of the file of results, as of the other suite.
type result struct {
	Name    string  `json:"name"`
	State   string  `json:"state"`
	Seconds float64 `json:"seconds"`
}

var (
	kubeconfig = flag.String("kubeconfig", "", "file with the address and the credentials of the cluster")
	focus      = flag.String("focus", "", "regular expression; other specifications are skipped")
	results    = flag.String("results", "", "file to which a line of JSON per specification is appended")
	passed     = flag.String("passed", "", "file with a specification's name per line; these are skipped")
)

func TestClusterNetworkPolicy(t *testing.T) {
	focused, err := regexp.Compile(*focus)
	if err != nil {
		t.Fatalf("focus: %v", err)
	}
	before, err := lines(*passed)
	if err != nil {
		t.Fatalf("cannot read the specifications to skip: %v", err)
	}
	specifications := suite.New(options(t))
	var due []suite.ConformanceTest
	for _, test := range tests.ConformanceTests {
		if focused.MatchString(test.ShortName) && !before[test.ShortName] {
			due = append(due, test)
		}
	}
	if len(due) > 0 {
		specifications.Setup(t)
	}
	for _, test := range due {
		start := time.Now()
		ok := t.Run(test.ShortName, func(t *testing.T) { test.Run(t, specifications) })
		write(t, test.ShortName, ok, time.Since(start))
	}
	fmt.Printf("\nRan %d of %d Specs in this run\n", len(due), len(tests.ConformanceTests))
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

func write(t *testing.T, name string, ok bool, duration time.Duration) {
	state := "failed"
	if ok {
		state = "passed"
	}
	line, err := json.Marshal(result{name, state, duration.Round(time.Millisecond).Seconds()})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	file, err := os.OpenFile(*results, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = file.Write(append(line, '\n'))
		if closed := file.Close(); err == nil {
			err = closed
		}
	}
	if err != nil {
		t.Fatalf("%s: %v", *results, err)
	}
}

func lines(path string) (map[string]bool, error) {
	found := map[string]bool{}
	if path == "" {
		return found, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		found[scanner.Text()] = true
	}
	return found, scanner.Err()
}
