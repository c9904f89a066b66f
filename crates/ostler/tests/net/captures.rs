//! Captures of ports that are interfaces of the host.

use std::path::Path;

/// How many echo messages of IPv4 went in and out of the port, by the flags of the packets in a pcapng file.
pub fn echoes(file: &Path) -> [usize; 2] {
    let bytes = std::fs::read(file).unwrap();
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, mut counts) = (0, [0; 2]);
    while at < bytes.len() {
        let (kind, len) = (word(at), word(at + 4));
        if kind == 6 {
            let kept = word(at + 20);
            let frame = &bytes[at + 28..at + 28 + kept];
            // Flags are the first option (code 2): 1 is in, 2 is out.
            let options = at + 28 + kept.next_multiple_of(4);
            assert_eq!(bytes[options..options + 4], [2, 0, 4, 0]);
            // IPv4 with ICMP (RFC 791), of type 8 or 0.
            if frame[12..14] == [8, 0] && frame[23] == 1 && [0, 8].contains(&frame[34]) {
                counts[word(options + 4) - 1] += 1;
            }
        }
        at += len;
    }
    counts
}
