//! `ostler net`, in a network namespace of each test's own.

#[path = "../../../hostnet/tests/support/mod.rs"]
mod host;

mod bridges;
mod captures;
mod names;
mod same;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long something may take that only has to happen.
const LIMIT: Duration = Duration::from_secs(240);

/// Where the test's networks are, and nobody else's.
struct Net {
    runtime: tempfile::TempDir,
    ovs_run: PathBuf,
}

impl Net {
    /// Without Open vSwitch.
    fn new() -> Self {
        Self::with_ovs("/nonexistent".as_ref())
    }

    fn with_ovs(ovs_run: &Path) -> Self {
        Self {
            runtime: tempfile::tempdir().unwrap(),
            ovs_run: ovs_run.into(),
        }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ostler"));
        command.args(["net", "--runtime"]).arg(self.runtime.path());
        command.arg("--ovs-run").arg(&self.ovs_run);
        command.args(line.split_whitespace());
        command
    }

    fn run(&self, line: &str) -> String {
        let output = self.command(line).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.run(&format!("{line} --json"))).unwrap()
    }

    /// What is said of a command that is refused, with that status.
    fn fails(&self, line: &str, status: i32) -> String {
        let output = self.command(line).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{line}: {output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    }

    /// Waits for it.
    fn until(&self, what: &str, line: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + LIMIT;
        loop {
            let value = self.json(line);
            if is_so(&value) {
                return value;
            }
            assert!(Instant::now() < end, "never {what}: {value:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts a capture, and returns when it has begun.
    fn capture(&self, line: &str) -> Child {
        let mut command = self.command(line);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = std::io::BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        std::io::BufRead::read_line(&mut said, &mut first).unwrap();
        assert!(first.contains("capturing"), "{first}");
        child
    }
}

impl Drop for Net {
    /// A test that fails leaves no switch behind.
    fn drop(&mut self) {
        let output = self.command("list --kind switch --json").output().unwrap();
        let list: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        for network in list.as_array().into_iter().flatten() {
            let name = network["name"].as_str().unwrap_or_default();
            let _ = self.command(&format!("delete {name} --kind switch")).output();
        }
    }
}

fn pid(value: &Value) -> rustix::process::Pid {
    rustix::process::Pid::from_raw(value.as_i64().unwrap().try_into().unwrap()).unwrap()
}
