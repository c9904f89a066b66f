//! A kernel whose first instructions say so: an ELF file with a PVH entry point that writes one byte to COM1.

/// The byte.
pub(crate) const SIGN: u8 = b'!';

/// Where it is loaded and entered, in 32-bit protected mode.
const ENTRY: u64 = 0x10_0000;
/// Where its program starts in the file.
const CODE_AT: u64 = 0x1000;
/// Where its note starts.
const NOTE_AT: u64 = 0x200;

const CODE: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, SIGN, // mov al, SIGN
    0xee, // out dx, al
    0xfa, // cli
    0xf4, // hlt
    0xeb, 0xfd, // jmp to the hlt
];

/// XEN_ELFNOTE_PHYS32_ENTRY.
const NOTE_TYPE: u32 = 18;

/// The file.
pub(crate) fn kernel() -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4u32, 8, NOTE_TYPE] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(ENTRY.to_le_bytes());

    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend(2u16.to_le_bytes()); // executable
    file.extend(62u16.to_le_bytes()); // x86-64
    file.extend(1u32.to_le_bytes());
    file.extend(ENTRY.to_le_bytes());
    file.extend(64u64.to_le_bytes()); // program headers follow
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 2, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(program_header(1, 5, CODE_AT, ENTRY, CODE.len() as u64, 0x1000));
    file.extend(program_header(4, 4, NOTE_AT, 0, note.len() as u64, 4));
    file.resize(NOTE_AT as usize, 0);
    file.extend(note);
    file.resize(CODE_AT as usize, 0);
    file.extend(CODE);
    file
}

fn program_header(kind: u32, flags: u32, offset: u64, address: u64, len: u64, align: u64) -> Vec<u8> {
    let mut header = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    for field in [offset, address, address, len, len, align] {
        header.extend(field.to_le_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_are_where_the_file_says() {
        let file = kernel();
        assert_eq!(file.len(), CODE_AT as usize + CODE.len());
        assert_eq!(file[64..68], [1, 0, 0, 0]);
        assert_eq!(file[120..124], [4, 0, 0, 0]);
        assert_eq!(&file[NOTE_AT as usize + 12..][..4], b"Xen\0");
    }
}
