//! `--pmem`.

use std::path::PathBuf;

use ostler_vmm::spec::{check_pmem_size, parse_size};

/// A file that is memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PmemOption {
    pub path: PathBuf,
    /// Bytes, if not all of the file.
    pub size: Option<u64>,
    pub readonly: bool,
}

pub(super) fn parse_pmem(text: &str) -> Result<PmemOption, String> {
    // A path may contain commas: only trailing words that are options are taken off.
    let mut rest = text;
    let (mut size, mut readonly) = (None, false);
    while let Some((head, word)) = rest.rsplit_once(',') {
        match word.split_once('=') {
            None if word == "readonly" => readonly = true,
            Some(("size", bytes)) => {
                let bytes = parse_size(bytes)?;
                check_pmem_size(bytes).map_err(|error| error.to_string())?;
                size = Some(bytes);
            }
            Some((key, _)) if !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase()) => {
                return Err(format!(
                    "persistent memory has no option \"{key}\"; size=SIZE and readonly are known"
                ));
            }
            _ => break,
        }
        rest = head;
    }
    if rest.is_empty() {
        return Err("the memory's file is missing; write FILE[,size=SIZE][,readonly]".into());
    }
    Ok(PmemOption {
        path: rest.into(),
        size,
        readonly,
    })
}
