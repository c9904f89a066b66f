//! What comes of a script: entries, and of an entry the kernel that it loads. Commands without a part in that succeed and do
//! nothing.

use std::collections::HashMap;

use super::script::{Block, Statement, parse};
use super::words::{Word, expand};
use crate::volume::Volumes;
use crate::{Choice, Error, MAX_TEXT, Place, entries};

/// Commands that are run, over all files.
const MAX_STEPS: usize = 20_000;
/// Files that are run: `source` and `configfile`.
const MAX_FILES: usize = 32;
/// How deep files may be in one another.
const MAX_DEPTH: usize = 4;
/// Variables, and bytes of one; bytes of a command.
const MAX_VARIABLES: usize = 1024;
const MAX_VALUE: usize = 4096;
const MAX_COMMAND: usize = 64 << 10;
/// Menu entries.
const MAX_ENTRIES: usize = 1024;
/// Initial RAM disks of one entry.
const MAX_INITRDS: usize = 16;
/// Largest environment block, in bytes.
const MAX_ENVIRONMENT: u64 = 64 << 10;

/// An entry of a menu.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub title: String,
    pub id: String,
    pub submenu: bool,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    Script(Block),
    /// A boot loader entry, which needs no script.
    Ready(Choice),
}

pub(crate) struct Runner<'a> {
    volumes: &'a Volumes,
    variables: HashMap<String, String>,
    entries: Vec<Entry>,
    kernel: Option<(Place, String)>,
    initrds: Vec<Place>,
    steps: usize,
    files: usize,
    depth: usize,
    /// The file that is run, for messages.
    path: String,
}

impl<'a> Runner<'a> {
    /// For a configuration in `folder` of the volume at `index`.
    pub fn new(volumes: &'a Volumes, index: usize, folder: &str) -> Self {
        let root = volumes.grub_name(index);
        let variables = [
            ("root", root.clone()),
            ("prefix", format!("({root}){folder}")),
            // As GRUB for a BIOS has them: entries for other platforms are passed over by it.
            ("grub_platform", "pc".into()),
            ("grub_cpu", "i386".into()),
            ("feature_menuentry_id", "y".into()),
            ("feature_menuentry_options", "y".into()),
            ("feature_platform_search_hint", "y".into()),
        ];
        Self {
            volumes,
            variables: variables.map(|(name, value)| (name.to_owned(), value)).into(),
            entries: Vec::new(),
            kernel: None,
            initrds: Vec::new(),
            steps: 0,
            files: 0,
            depth: 0,
            path: String::new(),
        }
    }

    pub fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    pub fn take_entries(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries)
    }

    /// The entries of a submenu.
    pub fn entries_of(&mut self, submenu: &Entry) -> Result<Vec<Entry>, Error> {
        if let Body::Script(body) = &submenu.body {
            self.run(&body.clone())?;
        }
        Ok(self.take_entries())
    }

    /// What `entry` starts; `None` if that is not Linux.
    pub fn start(&mut self, entry: &Entry) -> Result<Option<Choice>, Error> {
        match &entry.body {
            Body::Ready(choice) => Ok(Some(choice.clone())),
            Body::Script(body) => {
                (self.kernel, self.initrds) = (None, Vec::new());
                let root = self.variable("root").to_owned();
                self.run(&body.clone())?;
                self.set("root", &root);
                Ok(self.started(&entry.title))
            }
        }
    }

    /// What was loaded so far, under the name `title`.
    pub fn started(&mut self, title: &str) -> Option<Choice> {
        let (kernel, command_line) = self.kernel.take()?;
        Some(Choice {
            title: title.into(),
            kernel,
            initrds: std::mem::take(&mut self.initrds),
            command_line,
        })
    }

    /// Runs the script at `path` of the volume at `index`.
    pub fn run_file(&mut self, index: usize, path: &str) -> Result<(), Error> {
        self.files += 1;
        self.depth += 1;
        if self.files > MAX_FILES || self.depth > MAX_DEPTH {
            return Err(self.wrong("it leads to too many files"));
        }
        let volume = self.volumes.get(index);
        let Some(text) = volume
            .map(|volume| volume.read(path, MAX_TEXT))
            .transpose()?
            .flatten()
        else {
            self.depth -= 1;
            return Ok(());
        };
        let before = std::mem::replace(&mut self.path, path.into());
        let block = parse(&String::from_utf8_lossy(&text)).map_err(|why| self.wrong(&why))?;
        self.run(&block)?;
        self.path = before;
        self.depth -= 1;
        Ok(())
    }

    fn wrong(&self, why: &str) -> Error {
        Error::Configuration {
            path: self.path.clone(),
            why: why.into(),
        }
    }

    /// Runs statements; true if the last command succeeded.
    fn run(&mut self, block: &Block) -> Result<bool, Error> {
        let mut success = true;
        for statement in block.iter() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err(self.wrong("it has too many commands"));
            }
            success = match statement {
                Statement::Command(words) => self.command(words)?,
                Statement::If(branches, otherwise) => self.conditional(branches, otherwise)?,
                Statement::Entry { submenu, words, body } => {
                    self.menu_entry(*submenu, words, body);
                    true
                }
            };
        }
        Ok(success)
    }

    fn conditional(&mut self, branches: &[(Block, Block)], otherwise: &Block) -> Result<bool, Error> {
        for (condition, body) in branches {
            if self.run(condition)? {
                return self.run(body);
            }
        }
        self.run(otherwise)
    }

    fn menu_entry(&mut self, submenu: bool, words: &[Word], body: &Block) {
        let mut words = expand(words, &self.variables, MAX_COMMAND).into_iter();
        let (mut title, mut id) = (None, None);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--id" => id = words.next(),
                "--class" | "--users" | "--hotkey" | "--source" => {
                    words.next();
                }
                "--unrestricted" => {}
                _ => {
                    if let Some(given) = word.strip_prefix("--id=") {
                        id = Some(given.into());
                    } else if !word.starts_with("--") {
                        title.get_or_insert(word);
                    }
                }
            }
        }
        let title = title.unwrap_or_default();
        self.add(Entry {
            id: id.unwrap_or_else(|| title.clone()),
            title,
            submenu,
            body: Body::Script(body.clone()),
        });
    }

    fn add(&mut self, entry: Entry) {
        if self.entries.len() < MAX_ENTRIES {
            self.entries.push(entry);
        }
    }

    /// Runs one command; true if it succeeds.
    fn command(&mut self, words: &[Word]) -> Result<bool, Error> {
        let words = expand(words, &self.variables, MAX_COMMAND);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let Some((name, arguments)) = words.split_first() else {
            return Ok(true);
        };
        match *name {
            "!" => return Ok(!self.plain_command(arguments)?),
            "set" => {
                if let Some((name, value)) = arguments.first().and_then(|word| word.split_once('=')) {
                    self.set(name, value);
                }
            }
            "unset" => {
                for name in arguments {
                    self.variables.remove(*name);
                }
            }
            "[" | "test" => return self.test(arguments),
            "false" => return Ok(false),
            // Nobody holds a key.
            "keystatus" => return Ok(false),
            "search" | "search.fs_uuid" | "search.file" | "search.fs_label" => {
                return self.search(name, arguments);
            }
            "load_env" => self.load_environment(arguments)?,
            "source" | "." | "configfile" | "normal" => {
                if let Some(place) = arguments.first().and_then(|path| self.place(path)) {
                    self.run_file(place.volume, &place.path)?;
                }
            }
            "blscfg" => {
                for choice in entries::all(self.volumes, &self.variables)? {
                    self.add(Entry {
                        title: choice.1.title.clone(),
                        id: choice.0,
                        submenu: false,
                        body: Body::Ready(choice.1),
                    });
                }
            }
            "linux" | "linux16" | "linuxefi" => self.linux(arguments)?,
            "initrd" | "initrd16" | "initrdefi" => self.initrd(arguments)?,
            word => {
                if let Some((name, value)) = word.split_once('=')
                    && !name.is_empty()
                    && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                {
                    self.set(name, value);
                }
            }
        }
        Ok(true)
    }

    /// A command after "!".
    fn plain_command(&mut self, words: &[&str]) -> Result<bool, Error> {
        match words.split_first() {
            Some((&("[" | "test"), arguments)) => self.test(arguments),
            Some((&"false", _)) => Ok(false),
            _ => Ok(true),
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        if self.variables.len() < MAX_VARIABLES && name.len() + value.len() <= MAX_VALUE {
            self.variables.insert(name.into(), value.into());
        }
    }

    /// A file by GRUB's name: (device)/path, or /path on the root device. `None` for a device that is not there.
    fn place(&self, name: &str) -> Option<Place> {
        let (device, path) = match name.strip_prefix('(') {
            Some(rest) => rest.split_once(')')?,
            None => (self.variable("root"), name),
        };
        Some(Place {
            volume: self.volumes.by_grub_name(device)?,
            path: path.into(),
        })
    }

    fn linux(&mut self, arguments: &[&str]) -> Result<(), Error> {
        let mut arguments = arguments.iter().filter(|word| !word.starts_with("--"));
        let Some(name) = arguments.next() else {
            return Ok(());
        };
        let place = self.place(name).ok_or_else(|| self.no_device(name))?;
        // As GRUB puts it together.
        let mut command_line = format!("BOOT_IMAGE={name}");
        for word in arguments {
            command_line.push(' ');
            match word.contains(' ') {
                true => command_line.extend(["\"", word, "\""]),
                false => command_line.push_str(word),
            }
        }
        self.kernel = Some((place, command_line));
        self.initrds.clear();
        Ok(())
    }

    fn initrd(&mut self, arguments: &[&str]) -> Result<(), Error> {
        self.initrds.clear();
        for name in arguments.iter().take(MAX_INITRDS) {
            let place = self.place(name).ok_or_else(|| self.no_device(name))?;
            self.initrds.push(place);
        }
        Ok(())
    }

    fn no_device(&self, name: &str) -> Error {
        let root = self.variable("root");
        self.wrong(&format!(
            "it takes \"{name}\" from the device \"{root}\", which is no partition of this disk with ext4, FAT or ISO 9660"
        ))
    }

    /// `search`: sets a variable to the first volume that has the file, label or UUID.
    fn search(&mut self, command: &str, arguments: &[&str]) -> Result<bool, Error> {
        let mut by = match command {
            "search.fs_uuid" => "--fs-uuid",
            "search.fs_label" => "--label",
            _ => "--file",
        };
        let mut variable = (command != "search").then_some("root");
        let mut wanted = Vec::new();
        let mut words = arguments.iter().copied().peekable();
        while let Some(word) = words.next() {
            match word {
                "-u" | "--fs-uuid" => by = "--fs-uuid",
                "-l" | "--label" | "--fs-label" => by = "--label",
                "-f" | "--file" => by = "--file",
                // The variable's name may be left out.
                "-s" | "--set" => {
                    let named = words.next_if(|word| !word.starts_with('-') && words_look_like_name(word));
                    variable = Some(named.unwrap_or("root"));
                }
                "--hint" | "--hint-bios" | "--hint-efi" | "--hint-baremetal" | "--hint-ieee1275"
                | "--hint-arc" => {
                    words.next();
                }
                word => match word.strip_prefix("--set=") {
                    Some(name) => variable = Some(name),
                    None if word.starts_with('-') => {}
                    None => wanted.push(word),
                },
            }
        }
        let Some(name) = wanted.first() else {
            return Ok(false);
        };
        // The second word of the old commands is the variable.
        if command != "search"
            && let Some(given) = wanted.get(1)
        {
            variable = Some(given);
        }
        for (index, volume) in self.volumes.iter() {
            let found = match by {
                "--fs-uuid" => volume.uuid().eq_ignore_ascii_case(name),
                "--label" => volume.label() == *name,
                _ => volume.exists(name)?,
            };
            if found {
                let device = self.volumes.grub_name(index);
                self.set(variable.unwrap_or("root"), &device);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `load_env`: variables from an environment block: lines of name=value.
    fn load_environment(&mut self, arguments: &[&str]) -> Result<(), Error> {
        let mut name = format!("{}/grubenv", self.variable("prefix"));
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            if matches!(*word, "-f" | "--file") {
                name = words.next().map_or(name, |word| (*word).into());
            }
        }
        let Some(place) = self.place(&name) else {
            return Ok(());
        };
        let Some(volume) = self.volumes.get(place.volume) else {
            return Ok(());
        };
        let bytes = volume.read(&place.path, MAX_ENVIRONMENT)?.unwrap_or_default();
        for line in String::from_utf8_lossy(&bytes)
            .lines()
            .filter(|line| !line.starts_with('#'))
        {
            if let Some((name, value)) = line.split_once('=') {
                self.set(name, value);
            }
        }
        Ok(())
    }

    /// `[ ... ]`: comparisons and files, with !, -a and -o.
    fn test(&self, words: &[&str]) -> Result<bool, Error> {
        let words = match words.split_last() {
            Some((&"]", words)) => words,
            _ => words,
        };
        for alternative in words.split(|word| *word == "-o") {
            let mut all = true;
            for part in alternative.split(|word| *word == "-a") {
                all &= self.test_one(part)?;
            }
            if all {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn test_one(&self, words: &[&str]) -> Result<bool, Error> {
        let number = |word: &str| word.parse::<i64>().unwrap_or(0);
        let negations = words.iter().take_while(|word| **word == "!").count();
        let is = match &words[negations..] {
            [left, "=" | "==", right] => left == right,
            [left, "!=", right] => left != right,
            [left, "<", right] => left < right,
            [left, ">", right] => left > right,
            [left, "-eq", right] => number(left) == number(right),
            [left, "-ne", right] => number(left) != number(right),
            [left, "-lt", right] => number(left) < number(right),
            [left, "-gt", right] => number(left) > number(right),
            [left, "-le", right] => number(left) <= number(right),
            [left, "-ge", right] => number(left) >= number(right),
            ["-n", word] => !word.is_empty(),
            ["-z", word] => word.is_empty(),
            ["-e" | "-f" | "-s" | "-d", name] => match self.place(name) {
                Some(place) => match self.volumes.get(place.volume) {
                    Some(volume) => volume.exists(&place.path)?,
                    None => false,
                },
                None => false,
            },
            [word] => !word.is_empty() && *word != "-n",
            _ => false,
        };
        Ok(is ^ (negations % 2 == 1))
    }
}

/// True for what can be a variable's name, which a UUID or a path is not.
fn words_look_like_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
