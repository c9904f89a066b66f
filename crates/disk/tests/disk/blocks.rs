//! What a disk announces as its block is what it takes, also where the host's blocks are 4 KiB.

use std::path::{Path, PathBuf};
use std::process::Command;

use ostler_disk::{Disk, Engine, IoBuf, Op, RequestError};

use crate::common::{folder, raw, run};

const SIZE: u64 = 1 << 20;

/// Takes and gives back one block at each of some places, from memory at an odd address.
fn blocks_move(disk: &dyn Disk, block: u64) {
    let mut queue = disk.open_queue(4).unwrap();
    for (n, at) in [0, block, 3 * block, SIZE - block].into_iter().enumerate() {
        let mut memory = vec![n as u8 + 1; block as usize + 1];
        let buffers = [IoBuf::of_const(&memory[1..])];
        let write = Op::Write {
            offset: at,
            buffers: &buffers,
        };
        run(&mut *queue, write).unwrap();
        run(&mut *queue, Op::Flush).unwrap();
        memory.fill(0);
        let buffers = [IoBuf::of(&mut memory[1..])];
        let read = Op::Read {
            offset: at,
            buffers: &buffers,
        };
        run(&mut *queue, read).unwrap();
        assert!(memory[1..].iter().all(|byte| *byte == n as u8 + 1), "at {at}");
    }
}

#[test]
fn a_direct_disk_takes_the_blocks_that_it_announces() {
    let test = "a_direct_disk_takes_the_blocks_that_it_announces";
    for engine in [Engine::Uring, Engine::Threads] {
        let folder = folder();
        let path = folder.path().join("disk");
        // No multiple of any block.
        std::fs::write(&path, vec![0x5a; SIZE as usize - 100]).unwrap();
        let Some(disk) = raw(test, &path, engine, true) else {
            continue;
        };
        let block = u64::from(disk.topology().logical_block);
        assert!(block == 512 || block == 4096, "{block}");
        assert_eq!(disk.size(), SIZE);
        blocks_move(&*disk, block);
    }
}

/// A loop device with sectors of 4 KiB, which goes when this does.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path) -> Result<Self, String> {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", "4096"])
            .arg(file)
            .output()
            .map_err(|error| format!("losetup: {error}"))?;
        if !output.status.success() {
            return Err(format!(
                "losetup: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        Ok(Self(String::from_utf8_lossy(&output.stdout).trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_device_with_sectors_of_4_kib_is_announced_as_such() {
    let test = "a_device_with_sectors_of_4_kib_is_announced_as_such";
    for engine in [Engine::Uring, Engine::Threads] {
        let folder = folder();
        let path = folder.path().join("disk");
        std::fs::write(&path, vec![0x5a; SIZE as usize]).unwrap();
        let device = match Loop::over(&path) {
            Ok(device) => device,
            Err(reason) => return eprintln!("SKIPPED {test}: {reason}"),
        };
        for direct in [false, true] {
            let Some(disk) = raw(test, &device.0, engine, direct) else {
                continue;
            };
            assert_eq!((disk.size(), disk.topology().logical_block), (SIZE, 4096));
            blocks_move(&*disk, 4096);
            // A driver that does not look at the block size hears of it by a failed request, and the disk lives on.
            let mut small = [0; 512];
            let buffers = [IoBuf::of(&mut small)];
            let read = Op::Read {
                offset: 512,
                buffers: &buffers,
            };
            let expected = if direct {
                Err(RequestError::OutOfRange)
            } else {
                Ok(())
            };
            assert_eq!(run(&mut *disk.open_queue(1).unwrap(), read), expected);
            blocks_move(&*disk, 4096);
        }
    }
}
