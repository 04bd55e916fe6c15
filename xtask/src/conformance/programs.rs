//! The suite, its runner, and the images that its pods need besides those of the node image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::cache::{Cache, Inputs, checkout};
use crate::kind;
use crate::oci::{self, Image, Layer};
use crate::process;

/// Raised when the images change.
const REVISION: &str = "3";

/// A program of Kubernetes that is the test image of one specification.
const INVALID_STATE: &str = "k8s.io/kubernetes/test/images/regression-issue-74839";

/// Paths of the built programs.
pub struct Programs {
    /// The binary with the specifications.
    pub suite: PathBuf,
    /// ginkgo, which runs them in parallel.
    pub runner: PathBuf,
    /// Archive with the images.
    pub images: PathBuf,
}

/// Builds what is not in the cache: 2 minutes, 8 without the compiled packages of Kubernetes.
///
/// # Errors
/// When a build fails.
pub fn build(cache: &Cache) -> Result<Programs> {
    let module = checkout().join("tests/conformance");
    let parts = ImageParts {
        tools: kind::tools(cache)?,
        agnhost: kind::program(cache, "agnhost")?,
        coredns: kind::program(cache, "coredns")?,
    };
    let mut inputs = Inputs::default().text(REVISION);
    for path in [&parts.tools, &parts.agnhost, &parts.coredns] {
        // The path contains the hash of the file's inputs.
        inputs = inputs.text(&path.to_string_lossy());
    }
    for file in ["go.mod", "go.sum", "suite_test.go"] {
        inputs = inputs.path(&module.join(file))?;
    }
    let folder = cache.artifact("conformance", &inputs, |folder| {
        let mut suite = go(&module);
        suite.args(["test", "-c", "-vet=off", "-o"]).arg(folder.join("suite.test")).arg(".");
        let mut programs = go(&module);
        programs.args(["build", "-o"]).arg(folder);
        programs.args(["github.com/onsi/ginkgo/v2/ginkgo", INVALID_STATE]);
        for (name, mut command) in
            [("building the suite (about 8 min)", suite), ("building its runner", programs)]
        {
            process::run(name, &mut command, &cache.logs(), process::BUILD)?;
        }
        pack(folder, &module, &parts)
    })?;
    cache.remove_others("conformance", &folder)?;
    Ok(Programs {
        suite: folder.join("suite.test"),
        runner: folder.join("ginkgo"),
        images: folder.join("images.tar"),
    })
}

/// A command of Go in a module.
pub fn go(module: &Path) -> Command {
    let mut command = Command::new("go");
    command.current_dir(module).env("CGO_ENABLED", "0");
    command.env("GOFLAGS", "-trimpath -buildvcs=false -ldflags=-w");
    command
}

/// What images contain besides the programs of the suite's module.
struct ImageParts {
    tools: PathBuf,
    agnhost: PathBuf,
    coredns: PathBuf,
}

fn pack(folder: &Path, module: &Path, parts: &ImageParts) -> Result<()> {
    let tools = parts.tools.as_path();
    let program = folder.join("regression-issue-74839.tar");
    let mut layer = Layer::create(&program)?;
    layer.program("regression-issue-74839", &folder.join("regression-issue-74839"))?;
    layer.finish()?;
    // Upstream's image has a DNS server and the certificate of agnhost's TLS servers as well.
    let kubernetes = process::output(Command::new("go").current_dir(module).args([
        "list",
        "-m",
        "-f",
        "{{.Dir}}",
        "k8s.io/kubernetes",
    ]))?;
    let certificate = Path::new(&kubernetes).join("test/images/agnhost/porter");
    let agnhost = folder.join("agnhost.tar");
    let mut layer = Layer::create(&agnhost)?;
    layer.program("agnhost", &parts.agnhost)?;
    layer.program("coredns", &parts.coredns)?;
    for name in ["localhost.crt", "localhost.key"] {
        layer.file(name, &fs::read(certificate.join(name))?)?;
    }
    layer.finish()?;
    let test = |name: &str| format!("registry.k8s.io/e2e-test-images/{name}");
    // Shell, nslookup, dig and nc: what the specifications use of these images.
    let mut shell = Image::new(&test("jessie-dnsutils:1.7"), &[tools], "");
    shell.names.extend(["busybox:1.36.1-1", "busybox:1.37.0-1"].map(test));
    let sleeping = Image::new(&test("nginx:1.14-4"), &[tools], "sleep 86400");
    let invalid_state =
        Image::new(&test("regression-issue-74839:1.2"), &[&program], "/regression-issue-74839");
    let mut servers = Image::new(kind::AGNHOST, &[tools, &agnhost], "/agnhost");
    servers.arguments.push("pause".to_owned());
    oci::write(&[shell, sleeping, invalid_state, servers], &folder.join("images.tar"))?;
    fs::remove_file(program)?;
    Ok(fs::remove_file(agnhost)?)
}
