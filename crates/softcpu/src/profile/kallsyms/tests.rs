use proptest::prelude::*;

use super::*;

/// Where the base of the offsets is.
const BASE: u64 = 0xffff_ffff_8100_0000;
/// Where images are in their memory.
const PLACE: u64 = 0x3_0000;

/// In which order the tables come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Layout {
    /// Linux 6.1 as it came out, and before.
    First,
    /// Later 6.1, up to 6.3.
    Old,
    /// Since Linux 6.4.
    New,
    /// The same without absolute addresses.
    Relative,
}

/// The tables of a kernel, as its build makes them.
pub struct Image {
    offsets: Vec<u64>,
    names: Vec<u8>,
    markers: Vec<u32>,
    tokens: Vec<u8>,
    index: Vec<u16>,
}

impl Image {
    /// Of these symbols, with their types before the names, and 600 of a kernel's per-CPU data before them.
    pub fn of(symbols: &[(&str, u64)]) -> Self {
        // Two tokens of several characters, in places that no name needs.
        let texts: Vec<Vec<u8>> = (0u8..=255)
            .map(|byte| match byte {
                0x80 => b"Tentry_".to_vec(),
                0x81 => b"schedule".to_vec(),
                b' '..=b'~' | 1 => vec![byte],
                _ => Vec::new(),
            })
            .collect();
        let mut image = Self {
            offsets: Vec::new(),
            names: Vec::new(),
            markers: Vec::new(),
            tokens: Vec::new(),
            index: Vec::new(),
        };
        for text in texts {
            image.index.push(image.tokens.len() as u16);
            image.tokens.extend(text);
            image.tokens.push(0);
        }
        for number in 0..600 {
            image.add(&format!("Aper_cpu_{number}"), 16 * number);
        }
        for (name, address) in symbols {
            image.add(name, *address);
        }
        image
    }

    fn add(&mut self, name: &str, address: u64) {
        if self.offsets.len().is_multiple_of(GROUP) {
            self.markers.push(self.names.len() as u32);
        }
        self.offsets.push(address);
        let text = name.replace("Tentry_", "\u{80}").replace("schedule", "\u{81}");
        let tokens: Vec<u8> = text.chars().map(|character| character as u8).collect();
        let len = tokens.len();
        if len < 0x80 {
            self.names.push(len as u8);
        } else {
            self.names.extend([len as u8 | 0x80, (len >> 7) as u8]);
        }
        self.names.extend(tokens);
    }

    /// As they lie in memory.
    pub fn laid_out(&self, layout: Layout) -> Vec<u8> {
        let mut bytes = vec![0xcc; 64];
        let mut part = |part: &[u8]| {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes.extend(part);
        };
        let offset = |&address: &u64| match layout {
            Layout::Relative => address.wrapping_sub(BASE) as u32,
            _ if address < 1 << 31 => address as u32,
            _ => BASE.wrapping_sub(1).wrapping_sub(address) as u32,
        };
        let offsets: Vec<u8> = self
            .offsets
            .iter()
            .map(offset)
            .flat_map(u32::to_le_bytes)
            .collect();
        let early = matches!(layout, Layout::First | Layout::Old);
        if early {
            part(&offsets);
            part(&BASE.to_le_bytes());
        }
        part(&(self.offsets.len() as u32).to_le_bytes());
        part(&self.names);
        part(
            &self
                .markers
                .iter()
                .flat_map(|n| n.to_le_bytes())
                .collect::<Vec<_>>(),
        );
        if layout == Layout::Old {
            part(&vec![0x5a; SEQUENCE * self.offsets.len()]);
        }
        part(&self.tokens);
        part(
            &self
                .index
                .iter()
                .flat_map(|n| n.to_le_bytes())
                .collect::<Vec<_>>(),
        );
        if !early {
            part(&offsets);
            part(&BASE.to_le_bytes());
        }
        part(&[0xcc; 64]);
        bytes
    }
}

/// Memory that has an image at [`PLACE`], and 128 KiB of zeros behind.
struct Ram(Vec<u8>);

impl Ram {
    fn with(image: &[u8]) -> Self {
        let mut bytes = vec![0; PLACE as usize];
        bytes.extend(image);
        bytes.resize(bytes.len() + (128 << 10), 0);
        Self(bytes)
    }

    fn find(&self) -> Option<Symbols> {
        find(self, 0..u64::MAX, |symbols| {
            symbols.has("entry_SYSCALL_64", BASE + 0x4000)
        })
    }
}

impl Source for Ram {
    fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        let from = usize::try_from(address)
            .ok()
            .and_then(|at| self.0.get(at..)?.get(..bytes.len()));
        from.is_some_and(|from| {
            bytes.copy_from_slice(from);
            true
        })
    }
}

const SYMBOLS: &[(&str, u64)] = &[
    ("T_text", BASE),
    ("Tentry_SYSCALL_64", BASE + 0x4000),
    ("D__entry_data", BASE + 0x4000),
    ("tschedule_timeout", BASE + 0x5000),
    ("Tschedule", BASE + 0x5000),
    ("D__a_variable", BASE + 0x6000),
    ("t\u{1}[31m", BASE + 0x7000),
    ("T_end", BASE + 0x8000),
];

#[test]
fn symbols_are_found_wherever_they_lie_and_addresses_named() {
    for layout in [Layout::First, Layout::Old, Layout::New] {
        let image = Image::of(SYMBOLS).laid_out(layout);
        for shift in [0, 8, 4096 - 8] {
            let mut ram = vec![0; shift];
            ram.extend(&image);
            let ram = Ram::with(&ram);
            let symbols = ram.find().unwrap_or_else(|| panic!("{layout:?}, {shift}"));
            let named = |address| {
                symbols
                    .function_at(address)
                    .map(|symbol| (symbol.name, symbol.offset))
            };
            assert_eq!(named(BASE + 0x123), Some(("_text".into(), 0x123)));
            assert_eq!(named(BASE + 0x4fff), Some(("entry_SYSCALL_64".into(), 0xfff)));
            assert_eq!(named(BASE + 0x5000), Some(("schedule_timeout".into(), 0)));
            assert_eq!(named(BASE + 0x6000), None, "data");
            assert_eq!(named(BASE + 0x7000), None, "a name that moves the cursor");
            assert_eq!(named(BASE + 0x8000), None, "behind the last");
            assert_eq!(named(BASE - 1), None, "before the kernel");
            assert_eq!(named(u64::MAX), None);
            assert!(symbols.are_still_in(&ram));
        }
    }
}

#[test]
fn symbols_of_a_kernel_without_absolute_addresses() {
    let mut image = Image::of(SYMBOLS);
    image.offsets[..600].fill(BASE);
    let ram = Ram::with(&image.laid_out(Layout::Relative));
    let found = ram.find().unwrap().function_at(BASE + 0x4010).unwrap();
    assert_eq!((found.name.as_str(), found.offset), ("entry_SYSCALL_64", 16));
}

#[test]
fn long_names_have_two_bytes_of_length() {
    let long = format!("t{}", "x".repeat(300));
    let endless = format!("t{}", "x".repeat(MAX_NAME + 1));
    let mut symbols = SYMBOLS.to_vec();
    symbols.splice(6..6, [(&*long, BASE + 0x6100), (&*endless, BASE + 0x6200)]);
    let ram = Ram::with(&Image::of(&symbols).laid_out(Layout::Old));
    let symbols = ram.find().unwrap();
    assert_eq!(symbols.function_at(BASE + 0x6100).unwrap().name.len(), 300);
    assert_eq!(symbols.function_at(BASE + 0x6200), None);
}

#[test]
fn names_that_changed_are_noticed() {
    let image = Image::of(SYMBOLS);
    let symbols = Ram::with(&image.laid_out(Layout::Old)).find().unwrap();
    let mut other = SYMBOLS.to_vec();
    other[4].0 = "Tscheduled";
    assert!(!symbols.are_still_in(&Ram::with(&Image::of(&other).laid_out(Layout::Old))));
    assert!(!symbols.are_still_in(&Ram(Vec::new())));
}

#[test]
fn memory_full_of_digits_ends_the_search() {
    let ram = Ram(DIGITS.repeat((16 << 20) / DIGITS.len()));
    let begun = std::time::Instant::now();
    assert!(ram.find().is_none());
    // Some hundred milliseconds; without a bound it would be an hour.
    assert!(begun.elapsed() < std::time::Duration::from_secs(60));
}

#[test]
fn a_table_that_no_one_believes_is_none() {
    let mut symbols = SYMBOLS.to_vec();
    symbols[1].1 = BASE + 0x4008;
    assert!(
        Ram::with(&Image::of(&symbols).laid_out(Layout::Old))
            .find()
            .is_none()
    );
    // Out of order.
    symbols[1].1 = BASE + 0x4000;
    symbols.swap(0, 6);
    assert!(
        Ram::with(&Image::of(&symbols).laid_out(Layout::Old))
            .find()
            .is_none()
    );
}

fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let layouts = prop_oneof![Just(Layout::First), Just(Layout::Old), Just(Layout::New)];
    let damage = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..8);
    (layouts, damage, any::<proptest::sample::Index>(), any::<bool>()).prop_map(
        |(layout, damage, cut, is_cut)| {
            let mut image = Image::of(SYMBOLS).laid_out(layout);
            for (at, byte) in damage {
                let at = at.index(image.len());
                image[at] = byte;
            }
            if is_cut {
                image.truncate(cut.index(image.len()));
            }
            image
        },
    )
}

proptest! {
    #[test]
    fn any_damage_is_survived(image in damaged(), accepted in any::<bool>(), at in 0u64..0x9000) {
        let ram = Ram::with(&image);
        // Whatever is taken for a table is read at its ends and in its midst.
        if let Some(symbols) = find(&ram, 0..u64::MAX, |symbols| accepted || symbols.has("x", BASE)) {
            for address in [0, BASE + at, u64::MAX] {
                if let Some(symbol) = symbols.function_at(address) {
                    prop_assert!(symbol.name.bytes().all(|byte| byte.is_ascii_graphic()));
                    prop_assert!(symbol.name.len() <= MAX_NAME);
                }
            }
            prop_assert!(symbols.are_still_in(&ram));
        }
    }

    #[test]
    fn any_bytes_behind_digits_are_survived(
        before in proptest::collection::vec(any::<u8>(), 0..512),
        behind in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..2048),
    ) {
        let image = [&before, DIGITS, &behind].concat();
        prop_assert!(Ram::with(&image).find().is_none());
    }
}
