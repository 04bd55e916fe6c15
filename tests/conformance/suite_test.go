// The network specifications of Kubernetes' end-to-end suite.
//
// The specifications are upstream's and unchanged. This file starts them, skips those that an
// earlier run has passed, and writes the result of each as soon as it ends.
package conformance

import (
	"bufio"
	"encoding/json"
	"flag"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/test/e2e"
	"k8s.io/kubernetes/test/e2e/framework"
	"k8s.io/kubernetes/test/e2e/framework/config"
	"k8s.io/kubernetes/test/e2e/framework/testfiles"
	manifests "k8s.io/kubernetes/test/e2e/testing-manifests"

	// The specifications.
	_ "k8s.io/kubernetes/test/e2e/common/network"
	_ "k8s.io/kubernetes/test/e2e/framework/debug/init"
	_ "k8s.io/kubernetes/test/e2e/framework/metrics/init"
	_ "k8s.io/kubernetes/test/e2e/framework/node/init"
	_ "k8s.io/kubernetes/test/e2e/network"
)

// result is one line of the file of results.
type result struct {
	Name    string  `json:"name"`
	State   string  `json:"state"`
	Seconds float64 `json:"seconds"`
	Failure string  `json:"failure,omitempty"`
	At      string  `json:"at,omitempty"`
}

var (
	results = flag.String("results", "", "file to which a line of JSON per specification is appended")
	passed  = flag.String("passed", "", "file with a specification's name per line; these are skipped")
)

func TestMain(m *testing.M) {
	config.CopyFlags(config.Flags, flag.CommandLine)
	framework.RegisterCommonFlags(flag.CommandLine)
	framework.RegisterClusterFlags(flag.CommandLine)
	flag.Parse()
	if err := skipPassed(*passed); err != nil {
		klog.Fatalf("cannot read the specifications to skip: %v", err)
	}
	testfiles.AddFileSource(manifests.GetE2ETestingManifestsFS())
	framework.AfterReadingAllFlags(&framework.TestContext)
	// The line above lists the specifications in a copy of the suite, and what was registered
	// outside of containers before it is lost.
	ginkgo.ReportAfterEach(writeResult)
	os.Exit(m.Run())
}

func TestNetwork(t *testing.T) {
	e2e.RunE2ETests(t)
}

// skipPassed adds the specifications of the file to those that ginkgo skips.
func skipPassed(path string) error {
	names, err := lines(path)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := flag.Set("ginkgo.skip", regexp.QuoteMeta(name)+"$"); err != nil {
			return err
		}
	}
	return nil
}

// writeResult appends the result of a specification that was selected; one that skips itself says why.
// Every parallel process appends; a line is one write, so lines do not mix.
func writeResult(report types.SpecReport) {
	isSelected := report.State != types.SpecStateSkipped || report.FailureMessage() != ""
	if *results == "" || !isSelected || report.State == types.SpecStatePending {
		return
	}
	line, err := json.Marshal(result{
		Name:    report.FullText(),
		State:   report.State.String(),
		Seconds: report.RunTime.Round(time.Millisecond).Seconds(),
		Failure: report.FailureMessage(),
		At:      report.FailureLocation().String(),
	})
	if err != nil {
		klog.Errorf("%s: %v", report.FullText(), err)
		return
	}
	file, err := os.OpenFile(*results, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = file.Write(append(line, '\n'))
		if closed := file.Close(); err == nil {
			err = closed
		}
	}
	if err != nil {
		klog.Errorf("%s: %v", *results, err)
	}
}

func lines(path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []string
	for scanner := bufio.NewScanner(file); ; {
		if !scanner.Scan() {
			return found, scanner.Err()
		}
		if scanner.Text() != "" {
			found = append(found, scanner.Text())
		}
	}
}
