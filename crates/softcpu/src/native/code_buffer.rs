//! Memory for generated host code: one mapping to write through, another to execute from, never both at one address.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::{Duration, Instant};

/// Two views of one memory file.
pub struct CodeBuffer {
    writable: *mut u8,
    executable: *const u8,
    capacity: usize,
    used: usize,
    /// The host makes huge pages of what is full: host code is large, and small pages cost it a fifth of its speed.
    gathers: bool,
}

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Longest time that making a huge page may take, or no more are made.
const PATIENCE: Duration = Duration::from_millis(50);

/// A piece of a buffer that is filled by itself.
pub struct Piece {
    start: usize,
    used: usize,
    end: usize,
}

// SAFETY: the mappings belong to this value alone and stay where they are; writing needs `&mut`.
unsafe impl Send for CodeBuffer {}
// SAFETY: a shared reference only gives out addresses of code that is complete and never changes again.
unsafe impl Sync for CodeBuffer {}

impl CodeBuffer {
    const ALIGN: usize = 16;

    /// An empty buffer of `capacity` bytes, a multiple of the page size. Pages are only taken as they are filled.
    pub fn new(capacity: usize) -> io::Result<Self> {
        // SAFETY: the name is a C string; the call has no other argument that could be wrong.
        let fd = unsafe { libc::memfd_create(c"ostler-stubs".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nothing else.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(capacity as u64)?;
        let writable = map(&file, capacity, libc::PROT_READ | libc::PROT_WRITE)?;
        let executable = match map(&file, capacity, libc::PROT_READ | libc::PROT_EXEC) {
            Ok(address) => address,
            Err(error) => {
                unmap(writable, capacity);
                return Err(error);
            }
        };
        Ok(Self {
            writable,
            executable,
            capacity,
            used: 0,
            gathers: true,
        })
    }

    /// Appends `code` and returns where it can be executed, or `None` when the buffer is full.
    pub fn append(&mut self, code: &[u8]) -> Option<*const u8> {
        let start = self.used.next_multiple_of(Self::ALIGN);
        let end = start
            .checked_add(code.len())
            .filter(|&end| end <= self.capacity)?;
        // SAFETY: start..end lies in the mapping, and no code was handed out from there yet.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable.add(start), code.len()) };
        self.used = end;
        Some(self.executable.wrapping_add(start))
    }

    /// Where the next code will be.
    pub fn next(&self) -> *const u8 {
        self.executable
            .wrapping_add(self.used.next_multiple_of(Self::ALIGN))
    }

    /// The next `len` bytes of the buffer, for code that goes together; `None` when it is full.
    pub fn piece(&mut self, len: usize) -> Option<Piece> {
        let start = self.used.next_multiple_of(Self::ALIGN);
        let end = start.checked_add(len).filter(|&end| end <= self.capacity)?;
        self.gather(start, end);
        self.used = end;
        Some(Piece {
            start,
            used: start,
            end,
        })
    }

    /// Before `start..end` is handed out: makes a huge page of the one that they leave behind.
    fn gather(&mut self, start: usize, end: usize) {
        let first = start / HUGE;
        if !self.gathers || start % HUGE < HUGE / 2 || first == end / HUGE {
            return;
        }
        let since = Instant::now();
        // SAFETY: the range lies in the mapping and keeps its contents; a host that cannot do it leaves it as it is.
        let result = unsafe {
            libc::madvise(
                self.executable.cast_mut().add(first * HUGE).cast(),
                HUGE,
                MADV_COLLAPSE,
            )
        };
        self.gathers = result == 0 && since.elapsed() < PATIENCE;
    }

    /// Where the next code of `piece` will be.
    pub fn next_in(&self, piece: &Piece) -> *const u8 {
        self.executable
            .wrapping_add(piece.used.next_multiple_of(Self::ALIGN))
    }

    /// Appends `code` to what `piece` holds, and returns where it can be executed; `None` when the piece is full.
    pub fn append_to(&mut self, piece: &mut Piece, code: &[u8]) -> Option<*const u8> {
        let start = piece.used.next_multiple_of(Self::ALIGN);
        let end = start.checked_add(code.len()).filter(|&end| end <= piece.end)?;
        // SAFETY: start..end lies in a piece of the mapping, and holds no code that is still in use.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable.add(start), code.len()) };
        piece.used = end;
        Some(self.executable.wrapping_add(start))
    }

    /// Empties `piece`, and gives its memory back to the host until it is used again. Nobody holds an address of its code.
    pub fn recycle(&mut self, piece: &mut Piece) {
        let first = piece.start.next_multiple_of(4096);
        let len = (piece.end & !4095).saturating_sub(first);
        // SAFETY: the range lies in the mapping of a file of our own and holds nothing that is needed; where the host refuses, the
        // memory stays.
        unsafe { libc::madvise(self.writable.add(first).cast(), len, libc::MADV_REMOVE) };
        piece.used = piece.start;
    }

    /// Lets the 32-bit displacement at `place`, in code of this buffer, lead to `target`, in this buffer too.
    pub fn patch_displacement(&mut self, place: *const u8, target: *const u8) {
        let displacement = target.addr().wrapping_sub(place.addr() + 4) as i32;
        self.patch(place, &displacement.to_le_bytes());
    }

    /// Puts a jump to `target` at `place`, both in this buffer.
    pub fn patch_jump(&mut self, place: *const u8, target: *const u8) {
        self.patch(place, &[0xe9]);
        self.patch_displacement(place.wrapping_add(1), target);
    }

    fn patch(&mut self, place: *const u8, bytes: &[u8]) {
        let at = place.addr().wrapping_sub(self.executable.addr());
        if at.checked_add(bytes.len()).is_some_and(|end| end <= self.used) {
            // SAFETY: at..end lies in the mapping and in code that was handed out, which the calling thread alone executes.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.writable.add(at), bytes.len()) };
        }
    }

    /// Forgets all code. Only for a buffer whose code nobody holds an address of, on the thread that executes it.
    pub fn clear(&mut self) {
        self.used = 0;
    }
}

impl Drop for CodeBuffer {
    fn drop(&mut self) {
        unmap(self.writable, self.capacity);
        unmap(self.executable.cast_mut(), self.capacity);
    }
}

/// Since Linux 6.1; `libc` knows it for other targets only.
const MADV_COLLAPSE: i32 = 25;

/// Maps the whole of `file` where a huge page may begin.
fn map(file: &File, capacity: usize, protection: i32) -> io::Result<*mut u8> {
    let mapped = |at: *mut libc::c_void, len, protection, flags, fd| {
        // SAFETY: a new mapping at an address of the kernel's choice, or in the place of one that is made below for it.
        let address = unsafe { libc::mmap(at, len, protection, flags, fd, 0) };
        if address == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(address)
        }
    };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let space = mapped(std::ptr::null_mut(), capacity + HUGE, libc::PROT_NONE, flags, -1)?;
    let before = space.align_offset(HUGE);
    let at = space.wrapping_byte_add(before);
    let result = mapped(
        at,
        capacity,
        protection,
        libc::MAP_SHARED | libc::MAP_FIXED,
        file.as_raw_fd(),
    );
    // SAFETY: what lies around the file in the space reserved above is used by nobody.
    unsafe {
        if before > 0 {
            libc::munmap(space, before);
        }
        match &result {
            Ok(_) => libc::munmap(at.wrapping_byte_add(capacity), HUGE - before),
            Err(_) => libc::munmap(at, capacity + HUGE - before),
        };
    }
    result.map(|address| address.cast())
}

/// Gives a mapping of [`map`] back.
fn unmap(address: *mut u8, capacity: usize) {
    // SAFETY: the address and length are those of a mapping that this module made and nobody uses any more.
    unsafe { libc::munmap(address.cast(), capacity) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appended_code_runs_and_a_full_buffer_says_so() {
        let mut buffer = CodeBuffer::new(4096).unwrap();
        let code = buffer.append(&[0xb8, 0x2a, 0, 0, 0, 0xc3]).unwrap();
        // SAFETY: the bytes are `mov eax, 42; ret`.
        let function: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(code) };
        assert_eq!(function(), 42);
        assert!(buffer.append(&[0x90; 4096]).is_none());
        assert!(buffer.append(&[0xc3]).is_some());
    }

    #[test]
    fn pieces_hold_their_own_code_and_are_used_again() {
        let mut buffer = CodeBuffer::new(3 * 4096).unwrap();
        let mut first = buffer.piece(4096).unwrap();
        let mut second = buffer.piece(8192).unwrap();
        assert!(buffer.piece(1).is_none() && buffer.append(&[0xc3]).is_none());
        let answer = |value| [0xb8, value, 0, 0, 0, 0xc3];
        let mut call = |piece: &mut Piece, value| {
            let next = buffer.next_in(piece);
            let code = buffer.append_to(piece, &answer(value)).unwrap();
            assert_eq!(code, next);
            // SAFETY: the bytes are `mov eax, VALUE; ret`.
            let function: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(code) };
            (code, function())
        };
        let (at, value) = call(&mut first, 1);
        assert_eq!(value, 1);
        assert_eq!(call(&mut second, 2).1, 2);
        buffer.recycle(&mut first);
        assert!(buffer.append_to(&mut first, &[0x90; 4097]).is_none());
        assert_eq!(buffer.append_to(&mut first, &answer(3)), Some(at));
        // SAFETY: as above.
        let function: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(at) };
        assert_eq!(function(), 3);
    }

    #[test]
    fn code_stays_where_it_is_when_the_host_makes_huge_pages_of_it() {
        const PIECE: usize = 64 << 10;
        let mut buffer = CodeBuffer::new(3 * HUGE).unwrap();
        let answer = |value: u32| [&[0xb8][..], &value.to_le_bytes(), &[0xc3]].concat();
        let (mut functions, mut pieces) = (Vec::new(), 0);
        while let Some(mut piece) = buffer.piece(PIECE) {
            while let Some(code) = buffer.append_to(&mut piece, &answer(functions.len() as u32)) {
                functions.push(code);
            }
            pieces += 1;
            if pieces % 7 == 0 {
                buffer.recycle(&mut piece);
                functions.truncate(functions.len() - PIECE / 16);
            }
        }
        assert!(functions.len() > 2 * HUGE / 16);
        for (value, &code) in functions.iter().enumerate() {
            // SAFETY: the bytes are `mov eax, VALUE; ret`.
            let function: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(code) };
            assert_eq!(function(), value as u32);
        }
    }
}
