//! Memory in huge pages that the host has set aside.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::console::Console;
use crate::setup::{Host, field, linux, wait_until};
use crate::support::Guest;

/// Pages of 2 MiB.
const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
/// As many of them as the guests have.
const WANTED: u64 = 128;
const LIMIT: Duration = Duration::from_secs(240);

fn number(file: &str) -> u64 {
    let text = fs::read_to_string(Path::new(PAGES).join(file)).unwrap();
    text.trim().parse().unwrap()
}

/// Gives back the pages that a test had set aside.
struct GiveBack(u64);

impl Drop for GiveBack {
    fn drop(&mut self) {
        let _ = fs::write(Path::new(PAGES).join("nr_hugepages"), self.0.to_string());
    }
}

fn in_pages(name: &str, pages: &str) -> String {
    let backing = format!("<memoryBacking><hugepages>{pages}</hugepages></memoryBacking><vcpu>2</vcpu>");
    linux(name, "").replace("<vcpu>2</vcpu>", &backing)
}

/// KiB in huge pages of the process of the only guest that runs.
fn huge_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let text = field(&status, "HugetlbPages");
    text.trim_end_matches(" kB").trim().parse().unwrap()
}

/// The process that has memory in huge pages and this word among its arguments.
fn process(name: &str) -> u32 {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        if words.nth(1) == Some(b"vmm") && words.any(|word| word == name.as_bytes()) {
            found.push(pid);
        }
    }
    assert_eq!(found.len(), 1, "{name}");
    found[0]
}

#[test]
fn a_guest_is_in_huge_pages() {
    const NAME: &str = "a_guest_is_in_huge_pages";
    if !rustix::process::geteuid().is_root() || !Path::new(PAGES).exists() {
        eprintln!("SKIPPED {NAME}: setting huge pages of 2 MiB aside needs root and a kernel that has them");
        return;
    }
    let host = Host::start();
    let before = number("nr_hugepages");
    let give_back = GiveBack(before);
    let name = format!("huge{}", std::process::id());
    let page = "<page size='2' unit='MiB'/>";
    host.virsh(&format!(
        "define {}",
        host.xml("huge.xml", &in_pages(&name, page))
    ));
    if number("free_hugepages") < WANTED {
        let said = host.refused(&format!("start {name}"));
        assert!(
            said.contains(&format!("takes {WANTED} huge pages of 2 MiB")) && said.contains("are free"),
            "{said}"
        );
    }
    let allocated = host
        .command(&format!("allocpages 2M {WANTED} --add"))
        .output()
        .unwrap();
    if !allocated.status.success() {
        let said = String::from_utf8_lossy(&allocated.stderr);
        assert!(said.contains("the host has room for"), "{said}");
        eprintln!("SKIPPED {NAME}: {}", said.trim());
        return;
    }
    assert_eq!(number("nr_hugepages"), before + WANTED);
    let free = number("free_hugepages");
    let shown = host.virsh("freepages --cellno 0 --pagesize 2M");
    assert_eq!(field(&shown, "2048KiB"), free.to_string());

    // All are taken at the start, and the guest uses them.
    host.virsh(&format!("start {name}"));
    assert_eq!(number("free_hugepages"), free - WANTED);
    let mut console = Console::open(&host, &name);
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    assert_eq!(console.shell("echo $((6*7))"), "42");
    assert!(huge_kib(process(&name)) >= 32 << 10);
    // Another guest finds none.
    let second = format!("{name}b");
    let said = host.refused(&format!(
        "create {}",
        host.xml("second.xml", &in_pages(&second, page).replace("256", "512"))
    ));
    assert!(said.contains("takes 256 huge pages of 2 MiB"), "{said}");
    host.virsh(&format!("destroy {name}"));
    wait_until("the pages are free", || number("free_hugepages") == free);

    // The same by the command line.
    let third = format!("{name}c");
    let guest = Guest::new(1)
        .memory("256M")
        .args(["--huge-pages", "2M", "--balloon", "on", "--name", &third])
        .script("echo in huge pages; sleep 1000");
    let mut guest = guest.spawn();
    guest.expect("in huge pages", LIMIT);
    assert_eq!(number("free_hugepages"), free - WANTED);
    assert!(huge_kib(process(&third)) >= 32 << 10);
    drop(guest);
    wait_until("the pages are free", || number("free_hugepages") == free);
    host.virsh(&format!("allocpages 2M {before}"));
    assert_eq!(number("nr_hugepages"), before);
    drop(give_back);
}

#[test]
fn huge_pages_that_the_host_does_not_have_are_named() {
    let host = Host::start();
    let xml = in_pages("none", "<page size='4' unit='MiB'/>");
    let said = host.refused(&format!("create {}", host.xml("none.xml", &xml)));
    assert!(said.contains("no huge pages of 4 MiB"), "{said}");
    let locked = "<memoryBacking><locked/></memoryBacking><vcpu>2</vcpu>";
    let xml = linux("locked", "").replace("<vcpu>2</vcpu>", locked);
    let said = host.refused(&format!("create {}", host.xml("locked.xml", &xml)));
    assert!(said.contains("<locked>"), "{said}");
    assert_eq!(host.virsh("list --all --name").trim(), "");
}
