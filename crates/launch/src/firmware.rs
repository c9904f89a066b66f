//! Finding firmware and its store of variables.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ostler_disk::open::{DiskOptions, Format};
use serde::Deserialize;

use crate::{Error, cannot, open_image};

/// Where distributions put SeaBIOS.
const BIOS: [&str; 4] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/seabios/bios.bin",
    "/usr/share/qemu/bios-256k.bin",
    "/usr/share/qemu/bios.bin",
];
/// Where they put OVMF without SMM, with the template of its variables.
const UEFI: [(&str, &str); 4] = [
    (
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    (
        "/usr/share/edk2/ovmf/OVMF_CODE.fd",
        "/usr/share/edk2/ovmf/OVMF_VARS.fd",
    ),
    (
        "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ),
];
/// Where they put the VGA BIOS for a display with Bochs' VBE registers.
const VGA_BIOS: [&str; 3] = [
    "/usr/share/seabios/vgabios-stdvga.bin",
    "/usr/share/seavgabios/vgabios-stdvga.bin",
    "/usr/share/qemu/vgabios-stdvga.bin",
];
/// Where they put OVMF with secure boot, which needs SMM, with a template that has the usual keys enrolled.
const SECURE_UEFI: [(&str, &str); 3] = [
    (
        "/usr/share/OVMF/OVMF_CODE_4M.ms.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.ms.fd",
    ),
    (
        "/usr/share/OVMF/OVMF_CODE.ms.fd",
        "/usr/share/OVMF/OVMF_VARS.ms.fd",
    ),
    (
        "/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd",
        "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd",
    ),
];
/// Where firmware is described for programs such as this one.
const DESCRIPTIONS: [&str; 2] = ["/etc/qemu/firmware", "/usr/share/qemu/firmware"];
/// Longest description that is read, in bytes.
const MAX_DESCRIPTION: u64 = 1 << 20;
/// Largest template of variables, in bytes.
const MAX_TEMPLATE: u64 = 16 << 20;

/// Signature of a UEFI firmware volume, and where it is.
const VOLUME: (&[u8; 4], u64) = (b"_FVH", 0x28);

/// Which firmware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The host's SeaBIOS.
    Bios,
    /// The host's OVMF.
    Uefi,
    /// The host's OVMF with secure boot on.
    SecureUefi,
    /// This image.
    File(PathBuf),
    /// This image, which needs system management mode even if no description says so.
    FileWithSmm(PathBuf),
}

/// Where its variables are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Store<'a> {
    /// The file that keeps them; without one they end with the guest.
    pub kept: Option<&'a Path>,
    /// What a new file is made from, if it is not what belongs to the image.
    pub template: Option<&'a Path>,
}

/// Firmware that is open.
pub struct OpenFirmware {
    pub code: File,
    /// The store of its variables, and whether what the guest changes is kept in that file.
    pub variables: Option<(File, bool)>,
    /// It needs system management mode.
    pub smm: bool,
}

/// Firmware that was found.
struct Found {
    path: PathBuf,
    /// The template of its variables.
    template: Option<PathBuf>,
    smm: bool,
}

/// Opens the host's VGA BIOS, which a BIOS needs to show anything; UEFI does without. `None` if the host has none.
pub fn open_vga_bios() -> Result<Option<File>, Error> {
    let found = VGA_BIOS.into_iter().map(Path::new).find(|path| path.exists());
    found.map(|path| open_image("VGA BIOS", path)).transpose()
}

/// Opens the firmware that `which` names, and its variables.
pub fn open(which: &Choice, store: Store<'_>) -> Result<OpenFirmware, Error> {
    let Found {
        path,
        template: own_template,
        smm,
    } = find(which)?;
    let template = store.template.map(PathBuf::from).or(own_template);
    let code = open_image("firmware", &path)?;
    let is_uefi = has_volume(&code);
    let variables = match (store.kept, template) {
        (Some(_), _) if !is_uefi => {
            return Err(Error::Input(format!(
                "the firmware \"{}\" is no UEFI image and keeps no variables; leave out --nvram",
                path.display()
            )));
        }
        (Some(kept), template) => Some((open_kept(kept, template.as_deref())?, true)),
        (None, Some(template)) if is_uefi => {
            Some((open_image("template of UEFI variables", &template)?, false))
        }
        _ => None,
    };
    Ok(OpenFirmware { code, variables, smm })
}

/// Paths of the firmware that this host has: of the first BIOS, and of the first UEFI image with variables.
pub fn found() -> (Option<PathBuf>, Option<PathBuf>) {
    let path = |choice| find(&choice).ok().map(|found| found.path);
    (path(Choice::Bios), path(Choice::Uefi))
}

fn find(which: &Choice) -> Result<Found, Error> {
    let missing = |name: &str, package: &str| {
        Error::Input(format!(
            "there is no {name} on this host; install it (apt-get install {package}), or name its image: --firmware FILE"
        ))
    };
    match which {
        Choice::Bios => BIOS
            .iter()
            .find(|path| Path::new(path).exists())
            .map(|path| Found {
                path: path.into(),
                template: None,
                smm: false,
            })
            .ok_or_else(|| missing("SeaBIOS", "seabios")),
        Choice::Uefi => first_of(&UEFI, false).ok_or_else(|| missing("OVMF", "ovmf")),
        Choice::SecureUefi => {
            first_of(&SECURE_UEFI, true).ok_or_else(|| missing("OVMF with secure boot and its keys", "ovmf"))
        }
        Choice::File(path) | Choice::FileWithSmm(path) => {
            let described = description_of(path);
            let needs_smm = described.as_ref().is_some_and(|description| {
                description
                    .features
                    .iter()
                    .any(|feature| feature == "requires-smm")
            });
            let template = described
                .and_then(|description| description.mapping.template)
                .map(|template| template.filename)
                .or_else(|| sibling(path));
            Ok(Found {
                path: path.clone(),
                template,
                smm: needs_smm || matches!(which, Choice::FileWithSmm(_)),
            })
        }
    }
}

/// The first of these images that is there with its template.
fn first_of(images: &[(&str, &str)], smm: bool) -> Option<Found> {
    images
        .iter()
        .find(|(code, variables)| Path::new(code).exists() && Path::new(variables).exists())
        .map(|(code, variables)| Found {
            path: code.into(),
            template: Some(variables.into()),
            smm,
        })
}

/// What a distribution says about an image (QEMU's docs/interop/firmware.json).
#[derive(Debug, Deserialize)]
struct Description {
    mapping: Mapping,
    #[serde(default)]
    features: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Mapping {
    executable: Option<Image>,
    #[serde(rename = "nvram-template")]
    template: Option<Image>,
}

#[derive(Debug, Deserialize)]
struct Image {
    filename: PathBuf,
}

/// The description of the image at `path`, if there is one: one that names it so, else one that names the same file otherwise. Others
/// may describe what is no file: they are passed over.
fn description_of(path: &Path) -> Option<Description> {
    let real = path.canonicalize().ok()?;
    let files = DESCRIPTIONS
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|extension| extension == "json"));
    let mut files: Vec<PathBuf> = files.collect();
    files.sort();
    let mut descriptions: Vec<Description> = files.iter().filter_map(|file| read_description(file)).collect();
    let named = |description: &Description| {
        let image = description.mapping.executable.as_ref();
        image.map(|image| image.filename.clone())
    };
    let by_name = descriptions
        .iter()
        .position(|description| named(description).is_some_and(|name| name == path));
    let by_file = || {
        descriptions.iter().position(|description| {
            named(description)
                .and_then(|name| name.canonicalize().ok())
                .as_ref()
                == Some(&real)
        })
    };
    let at = by_name.or_else(by_file)?;
    Some(descriptions.swap_remove(at))
}

fn read_description(file: &Path) -> Option<Description> {
    let small = std::fs::metadata(file).ok()?.len() <= MAX_DESCRIPTION;
    small
        .then(|| std::fs::read(file).ok())
        .flatten()
        .and_then(|text| serde_json::from_slice(&text).ok())
}

/// The template beside an image, by the names that OVMF's files have: OVMF_CODE_4M.fd and OVMF_VARS_4M.fd.
fn sibling(code: &Path) -> Option<PathBuf> {
    let name = code.file_name()?.to_str()?;
    let (before, after) = name.split_once("CODE")?;
    let template = code.with_file_name(format!("{before}VARS{after}"));
    template.is_file().then_some(template)
}

fn has_volume(image: &File) -> bool {
    let (signature, offset) = VOLUME;
    let mut found = [0; 4];
    image.read_exact_at(&mut found, offset).is_ok() && &found == signature
}

/// Opens the file that keeps variables, for this guest alone; it is made from `template` first where it is not there.
fn open_kept(path: &Path, template: Option<&Path>) -> Result<File, Error> {
    let refused = |error: io::Error| cannot("keep UEFI variables in", "file", path, &error);
    if !path.exists() {
        let Some(template) = template else {
            return Err(Error::Input(format!(
                "there is no file \"{}\" yet and no template to make it from; copy the VARS file of the firmware there",
                path.display()
            )));
        };
        let template_file = open_image("template of UEFI variables", template)?;
        let size = template_file.metadata().map_err(refused)?.len();
        let mut contents = vec![0; size.min(MAX_TEMPLATE) as usize];
        template_file.read_exact_at(&mut contents, 0).map_err(refused)?;
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|file| file.write_all_at(&contents, 0));
        if let Err(error) = made {
            return Err(refused(error));
        }
    }
    let options = DiskOptions {
        format: Format::Raw,
        readonly: false,
        direct: false,
    };
    ostler_disk::open::open(path, options).map_err(|error| Error::Input(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_found_beside_its_image() {
        let folder = tempfile::tempdir().unwrap();
        let code = folder.path().join("MY_CODE.x.fd");
        assert_eq!(sibling(&code), None);
        let variables = folder.path().join("MY_VARS.x.fd");
        std::fs::write(&variables, [0; 10]).unwrap();
        assert_eq!(sibling(&code), Some(variables));
        assert_eq!(sibling(Path::new("/")), None);
    }

    #[test]
    fn a_description_is_read_and_a_bad_one_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("50.json");
        std::fs::write(
            &file,
            r#"{"description": "x", "mapping": {"device": "flash", "executable": {"filename": "/c", "format": "raw"},
               "nvram-template": {"filename": "/v", "format": "raw"}}, "features": ["requires-smm"], "tags": []}"#,
        )
        .unwrap();
        let description = read_description(&file).unwrap();
        assert_eq!(description.mapping.template.unwrap().filename, Path::new("/v"));
        assert_eq!(description.features, ["requires-smm"]);
        for bad in ["", "[]", "{\"mapping\": 3}"] {
            std::fs::write(&file, bad).unwrap();
            assert!(read_description(&file).is_none());
        }
    }

    #[test]
    fn kept_variables_start_from_the_template_and_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, template) = (folder.path().join("kept"), folder.path().join("template"));
        let failure = open_kept(&kept, None).err().unwrap();
        assert!(failure.to_string().contains("no template"), "{failure}");
        std::fs::write(&template, [7; 100]).unwrap();
        let file = open_kept(&kept, Some(&template)).unwrap();
        assert!(open_kept(&kept, Some(&template)).is_err(), "another guest has it");
        file.write_all_at(&[8], 0).unwrap();
        drop(file);
        let file = open_kept(&kept, Some(&template)).unwrap();
        let mut contents = [0; 2];
        file.read_exact_at(&mut contents, 0).unwrap();
        assert_eq!(contents, [8, 7]);
    }
}
