//! The QEMU project's own client, `qemu.qmp` for Python, at our control socket.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tiny::{Kernel, Tiny};

/// The release that is used, from the Python package index.
const RELEASE: &str = "qemu.qmp==0.0.6";

/// The folder with the client, which is fetched once; the error says what is missing.
fn client_folder() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let folder = target.join("qemu.qmp-0.0.6");
    if folder.exists() {
        return Ok(folder);
    }
    let fetched = tempfile::tempdir_in(&target).unwrap();
    let pip = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
        ])
        .args(["--retries", "1", "--timeout", "20", "--target"])
        .arg(fetched.path())
        .arg(RELEASE)
        .output();
    match pip {
        Ok(pip) if pip.status.success() => {
            // Somebody may have been faster.
            let _ = std::fs::rename(fetched.keep(), &folder);
            Ok(folder)
        }
        Ok(pip) => {
            let said = String::from_utf8_lossy(&pip.stderr).into_owned();
            let last = said.lines().last().unwrap_or("nothing").to_owned();
            Err(format!("python3 -m pip cannot fetch {RELEASE} ({last})"))
        }
        Err(error) => Err(format!("python3 cannot be started ({error})")),
    }
}

#[test]
fn the_qemu_projects_python_client_is_content() {
    let folder = match client_folder() {
        Ok(folder) => folder,
        Err(why) => return eprintln!("SKIPPED the_qemu_projects_python_client_is_content: {why}"),
    };
    let mut tiny = Tiny::new(Kernel::new().print("up\n").halt()).args(&["--name", "mare"]);
    let control = tiny.path_option("--control", "", "control");
    let image = tiny.folder.path().join("hot.img");
    std::fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let mut guest = tiny.spawn();
    guest.expect("up\n");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/command_line/qmp_client.py");
    let session = Command::new("python3")
        .env("PYTHONPATH", folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(script)
        .args([&control, &image])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&session.stderr);
    assert!(session.status.success(), "{said}");
    assert_eq!(
        String::from_utf8_lossy(&session.stdout),
        "the client is content\n",
        "{said}"
    );
    assert_eq!(guest.wait().status.code(), Some(0));
}
