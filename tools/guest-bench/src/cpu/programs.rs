//! Programs of others, each run from its start to its end: Debian's busybox, sqlite3 and gcc.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::random::{digest, text};
use super::{Entry, Surroundings, Work};

pub const TESTS: &[Entry] = &[
    ("programs", "sha256sum", "runs", |around| {
        let input = Input::new(around, "sha256sum", text(2 << 20))?;
        run(&around.busybox, &["sha256sum"], input)
    }),
    ("programs", "gzip", "runs", |around| {
        let input = Input::new(around, "gzip", text(1 << 20))?;
        run(&around.busybox, &["gzip", "-c"], input)
    }),
    ("programs", "awk", "runs", |around| {
        let program = "{ for (i = 1; i <= NF; i++) count[$i]++ } \
                       END { for (word in count) sum += length(word) * count[word]; print NR, sum }";
        let input = Input::new(around, "awk", text(200 << 10))?;
        run(&around.busybox, &["awk", program], input)
    }),
    ("programs", "shell-loop", "runs", |around| {
        let script = "i=0; s=0; while [ $i -lt 10000 ]; do i=$((i + 1)); \
                      case $i in *7) s=$((s + i % 13));; esac; done; echo $i $s";
        let input = Input::new(around, "shell", Vec::new())?;
        run(&around.busybox, &["sh", "-c", script], input)
    }),
    ("programs", "sql", "runs", |around| {
        let input = Input::new(around, "sql", sql().into())?;
        run(Path::new("/usr/bin/sqlite3"), &["-batch", ":memory:"], input)
    }),
    ("programs", "compile", "runs", |around| {
        let input = Input::new(around, "compile", c_source().into())?;
        // To assembly on standard output, which is compared: the assembler adds little to the time.
        let arguments = ["-nostdinc", "-O1", "-S", "-x", "c", "-o", "-", "-"];
        run(Path::new("/usr/bin/gcc"), &arguments, input)
    }),
];

/// A file for standard input, that goes with its test.
struct Input(PathBuf);

impl Input {
    fn new(around: &Surroundings, name: &str, contents: Vec<u8>) -> Result<Self, String> {
        let path = around
            .folder
            .join(format!("ostler-bench-{name}-{}", std::process::id()));
        fs::write(&path, contents).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self(path))
    }

    fn open(&self) -> Result<File, String> {
        File::open(&self.0).map_err(|e| format!("{}: {e}", self.0.display()))
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        // The folder is in memory, and goes with the guest at the latest.
        let _ = fs::remove_file(&self.0);
    }
}

fn run(program: &Path, arguments: &[&str], input: Input) -> Result<Work, String> {
    let program = program.to_owned();
    let name = program.file_name().unwrap_or_default().display().to_string();
    let arguments: Vec<String> = arguments.iter().map(|&word| word.into()).collect();
    let command = move || -> Result<Command, String> {
        let mut command = Command::new(&program);
        command.args(&arguments).stdin(input.open()?);
        // The same language, and temporary files in memory, everywhere.
        command
            .env("LC_ALL", "C")
            .env("TMPDIR", input.0.parent().unwrap_or(Path::new("/")));
        Ok(command)
    };
    let told = command()?.output().map_err(|e| format!("not there: {e}"))?;
    if !told.status.success() || told.stdout.is_empty() {
        let errors = String::from_utf8_lossy(&told.stderr);
        let first = errors.lines().next().unwrap_or_default();
        return Err(format!("{name} ended with {}: {first}", told.status));
    }
    Work::fallible(1.0, digest(&told.stdout), move |rounds| {
        for _ in 0..rounds {
            let ended = command()?
                .stdout(Stdio::null())
                .status()
                .map_err(|e| e.to_string())?;
            if !ended.success() {
                return Err(format!("{name} ended with {ended}"));
            }
        }
        Ok(())
    })
}

/// A table with an index, filled, changed, grouped and joined, in memory.
fn sql() -> &'static str {
    "create table item(id integer primary key, kind integer, name text, price real);
     with recursive n(i) as (select 1 union all select i + 1 from n where i < 8000)
       insert into item select i, i * 7919 % 97, 'item ' || (i * 31 % 1009), i % 400 / 4.0 from n;
     create index item_kind on item(kind);
     update item set price = price + 0.5 where kind % 3 = 0;
     delete from item where id % 11 = 0;
     select kind, count(*), sum(price), min(name) from item group by kind order by 3 desc, 1 limit 5;
     select count(*) from item a join item b on a.kind = b.kind and a.id < b.id where a.price > 90;
     select name, count(*) from item where name like '%7%' group by name order by 2 desc, 1 limit 3;\n"
}

/// C without headers: loops, tables, structures, a switch.
fn c_source() -> String {
    let mut source = "struct pair { int left; unsigned right; };\n".to_owned();
    for n in 0..6 {
        // Writing to a string does not fail.
        let _ = write!(
            source,
            "static int table{n}[{size}];
             int work{n}(const struct pair *pairs, int count)
             {{
                 int sum = {n};
                 for (int i = 0; i < count; i++) {{
                     const struct pair *pair = &pairs[i];
                     switch ((pair->left + {n}) & 7) {{
                     case 0: sum += pair->right % {modulus}; break;
                     case 1: sum ^= pair->left << {shift}; break;
                     case 2: table{n}[i & {mask}] += sum; break;
                     case 5: sum = sum * 31 + table{n}[pair->right & {mask}]; break;
                     default: for (int j = 0; j < {n} + 3; j++) sum -= pair[j & 1].left * j;
                     }}
                 }}
                 return sum;
             }}\n",
            size = 64 << (n % 3),
            mask = (64 << (n % 3)) - 1,
            modulus = 2 * n + 3,
            shift = n % 5,
        );
    }
    source
}
