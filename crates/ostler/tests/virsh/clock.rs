//! The guest's real-time clock (`<clock>`).

use std::time::{SystemTime, UNIX_EPOCH};

use crate::console::Console;
use crate::setup::{Host, Listener, linux_with, wait_until};

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// Says what its clock shows, and sets it when it is told to.
const CLOCK: &str = "
echo clock $(cat /sys/class/rtc/rtc0/since_epoch)
while read line; do
	date -s \"$line\" >/dev/null && hwclock -w -u
	echo clock $(cat /sys/class/rtc/rtc0/since_epoch)
done
";

/// Starts a guest whose clock begins like this, and returns what it showed first, and the seconds of the host before and after.
fn first_shown(host: &Host, name: &str, clock: &str) -> (i64, i64, i64) {
    let log = host.path(&format!("{name}.log"));
    let log_of_serial = format!("<serial type='file'><source path='{}'/></serial>", log.display());
    let xml = linux_with(host, name, "", CLOCK, &[])
        .replace("<serial type='pty'/>", &log_of_serial)
        .replace("<console type='pty'/>", "")
        .replace("<devices>", &format!("{clock}<devices>"));
    let before = now();
    host.virsh(&format!("create {}", host.xml(&format!("{name}.xml"), &xml)));
    let mut shown = None;
    wait_until("the guest says what its clock shows", || {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        let line = said
            .lines()
            .find_map(|line| line.trim().strip_prefix("clock ")?.parse().ok());
        shown = line.filter(|_| said.ends_with('\n'));
        shown.is_some()
    });
    (shown.unwrap(), before, now())
}

#[test]
fn a_clock_starts_where_its_definition_says() {
    let host = Host::start();
    for (name, clock, ahead) in [
        (
            "zone",
            "<clock offset='timezone' timezone='Asia/Kolkata'/>",
            19_800,
        ),
        (
            "late",
            "<clock offset='variable' adjustment='-7200' basis='utc'/>",
            -7200,
        ),
    ] {
        let (shown, before, after) = first_shown(&host, name, clock);
        assert!(
            (before + ahead - 2..=after + ahead + 2).contains(&shown),
            "{name}: {shown}"
        );
        host.virsh(&format!("destroy {name}"));
    }
    let (shown, before, after) = first_shown(&host, "fixed", "<clock offset='absolute' start='1000000000'/>");
    let passed = shown - 1_000_000_000;
    assert!((-2..=after - before + 2).contains(&passed), "{shown}");
    let nowhere = linux_with(&host, "nowhere", "", CLOCK, &[]).replace(
        "<devices>",
        "<clock offset='timezone' timezone='Nowhere/City'/><devices>",
    );
    let why = host.refused(&format!("create {}", host.xml("nowhere.xml", &nowhere)));
    assert!(why.contains("the time zone \"Nowhere/City\""), "{why}");
}

#[test]
fn a_clock_that_the_guest_sets_is_told_of_and_shown() {
    let mut host = Host::start();
    let clock = "<clock offset='variable' adjustment='60' basis='utc'/>";
    let xml = linux_with(&host, "set", "", CLOCK, &[]).replace("<devices>", &format!("{clock}<devices>"));
    host.virsh(&format!("define {}", host.xml("set.xml", &xml)));
    let all = Listener::start(&host, "event set --all --loop", || {
        host.virsh("desc set --config --title poked");
    });
    host.virsh("start set");
    let set = 1_927_857_906;
    let mut console = Console::open(&host, "set");
    console.expect("clock ");
    console.type_in("2031-02-03 04:05:06\n");
    let before = now();
    let told = all.until_such("the clock's offset", |what| what.parse::<i64>().is_ok());
    let offset: i64 = told.last().unwrap().parse().unwrap();
    assert!((set - now() - 2..=set - before + 2).contains(&offset), "{told:?}");

    let shown = |host: &Host| {
        let xml = host.virsh("dumpxml set");
        let at = xml.find("adjustment='").unwrap() + "adjustment='".len();
        xml[at..].split('\'').next().unwrap().parse::<i64>().unwrap()
    };
    assert_eq!(shown(&host), offset);
    assert!(host.virsh("dumpxml set --inactive").contains("adjustment='60'"));
    drop(all);
    // Another daemon finds it so, but for the seconds that it cannot see.
    host.kill_and_restart();
    assert!((shown(&host) - offset).abs() <= 2);
}
