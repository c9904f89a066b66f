//! A real Linux guest and its virtio disk, checked by foreign tools on the host.

mod support;

use std::fs;
use std::time::Duration;

use support::{Guest, assert_fsck_clean, make_ext4};

const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn files_survive_a_power_off_and_the_file_system_is_clean() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    make_ext4(&disk, 128);
    let disk_option = disk.to_str().unwrap();

    let first = Guest::new(2).args(["--disk", disk_option]).script(
        "mount -t ext4 /dev/vda /mnt || exit\n\
         mkdir /mnt/tree && cp -a /bin /lib /mnt/tree/\n\
         head -c 20000000 /dev/urandom >/mnt/random\n\
         (cd /mnt && find . -type f | sort | xargs sha256sum) >/tmp/sums; cp /tmp/sums /mnt/sums\n\
         echo BEGIN sums; sha256sum </mnt/sums; wc -l </mnt/sums; echo END sums\n\
         umount /mnt\n",
    );
    let first = first.run(LIMIT);
    first.assert_clean();
    assert_fsck_clean(&disk);

    let second = Guest::new(2).args(["--disk", disk_option]).script(
        "mount -t ext4 /dev/vda /mnt || exit\n\
         echo BEGIN sums; sha256sum </mnt/sums; wc -l </mnt/sums; echo END sums\n\
         cd /mnt && sha256sum -c sums >/tmp/checked 2>&1 || grep -v OK /tmp/checked\n\
         test $(grep -c OK /tmp/checked) = $(wc -l <sums) && echo \"all $(grep -c OK /tmp/checked) files are whole\"\n\
         cd /; umount /mnt\n",
    );
    let second = second.run(LIMIT);
    second.assert_clean();
    assert_eq!(second.section("sums"), first.section("sums"));
    assert!(second.console.contains("files are whole"), "{}", second.console);
    assert_fsck_clean(&disk);
}

#[test]
fn a_read_only_disk_is_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    fs::write(&disk, vec![0x5a; 1 << 20]).unwrap();
    let option = format!("{},readonly", disk.display());
    let outcome = Guest::new(1).args(["--disk", &option]).script(
        "echo BEGIN ro; cat /sys/block/vda/ro; cat /sys/block/vda/size\n\
         dd if=/dev/zero of=/dev/vda bs=512 count=1 conv=fsync 2>/dev/null && echo written || echo refused\n\
         echo END ro\n",
    );
    let outcome = outcome.run(LIMIT);
    outcome.assert_clean();
    assert_eq!(outcome.section("ro"), "1\n2048\nrefused\n");
    assert!(fs::read(&disk).unwrap().iter().all(|&byte| byte == 0x5a));
}

#[test]
fn the_block_device_does_what_it_offers() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    fs::write(&disk, vec![0xff; 8 << 20]).unwrap();
    let outcome = Guest::new(2).args(["--disk", disk.to_str().unwrap()]).script(
        "echo BEGIN block\n\
         test $(cat /sys/block/vda/queue/discard_max_bytes) -gt 0 && echo discards\n\
         test $(cat /sys/block/vda/queue/write_zeroes_max_bytes) -gt 0 && echo zeroes\n\
         cat /sys/block/vda/queue/write_cache\n\
         test -n \"$(cat /sys/block/vda/serial)\" && echo serial\n\
         blkdiscard -o 1048576 -l 1048576 /dev/vda && echo discarded\n\
         echo END block\n",
    );
    let outcome = outcome.run(LIMIT);
    outcome.assert_clean();
    assert_eq!(
        outcome.section("block"),
        "discards\nzeroes\nwrite back\nserial\ndiscarded\n"
    );
    let bytes = fs::read(&disk).unwrap();
    assert!(
        bytes[1 << 20..2 << 20].iter().all(|&byte| byte == 0),
        "discarded blocks of a file read as zeroes"
    );
    assert_eq!(bytes.iter().filter(|&&byte| byte == 0xff).count(), 7 << 20);
}
