//! What one instance may use: memory, processor time, processes, open files, disk. Pure values with their
//! text and checks; the driver of the node enforces them (`docs/isolation.md`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::http::{ByteSize, TextError};
use crate::limits::Limit;
use crate::text::parse_number;

/// Why resources were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ResourceError {
    #[error("{what} is {actual}: it must be at least {least} ({name})")]
    TooSmall {
        what: String,
        actual: String,
        least: String,
        name: String,
    },
    #[error("{what} is {actual}: it must be at most {most} ({name})")]
    TooLarge {
        what: String,
        actual: String,
        most: String,
        name: String,
    },
}

/// Least memory: what Docker asks for (`docker run --memory`); below it a program dies before it has begun.
pub const MEMORY_LEAST: Limit = Limit {
    name: "memory_least",
    max: 6 << 20,
};
/// Most memory: larger than any machine, and far from where the kernel's counters (pages, signed) end.
pub const MEMORY_MOST: Limit = Limit {
    name: "memory_most",
    max: 1 << 46,
};
/// Least processor time, in thousandths of a core: the kernel takes no quota under 1 ms, and periods are 100 ms.
pub const CPU_LEAST: Limit = Limit {
    name: "cpu_least",
    max: 10,
};
/// Most processor time: 1,024 cores, more than any machine.
pub const CPU_MOST: Limit = Limit {
    name: "cpu_most",
    max: 1_024_000,
};
/// Least processes: the first process of the instance, its shell, the program and one that it starts.
pub const PIDS_LEAST: Limit = Limit {
    name: "pids_least",
    max: 4,
};
/// Most processes: Linux has no more process ids (`PID_MAX_LIMIT`, proc(5)).
pub const PIDS_MOST: Limit = Limit {
    name: "pids_most",
    max: 4_194_304,
};
/// Least open files: three streams, and what a dynamic loader and an interpreter open before they begin.
pub const FILES_LEAST: Limit = Limit {
    name: "files_least",
    max: 16,
};
/// Most open files: what Linux allows one process unless told otherwise (`fs.nr_open`, proc(5)).
pub const FILES_MOST: Limit = Limit {
    name: "files_most",
    max: 1_048_576,
};
/// Least disk: below it not even an artifact of some files fits.
pub const DISK_LEAST: Limit = Limit {
    name: "disk_least",
    max: 1 << 20,
};
/// Most disk: larger than any machine's.
pub const DISK_MOST: Limit = Limit {
    name: "disk_most",
    max: 1 << 46,
};

/// What an instance may use. `None` is no limit but the node's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Of all its processes together, the page cache and tmpfs they fill included. Over it, it is ended.
    pub memory: Option<Memory>,
    /// Of all its processes together. Over it, they wait.
    pub cpu: Option<Cpu>,
    /// Processes and threads. Over it, no more can be made.
    pub pids: u32,
    /// Open files and sockets of each process. Over it, no more can be opened.
    pub files: u32,
    /// What it may keep in its own folder. Over it, it is ended.
    pub disk: Option<Disk>,
}

impl Default for Resources {
    /// No limit on memory, processor and disk, because only the one who deploys knows what is enough. Processes
    /// and files are limited, because a mistake in one program must not take them from the whole machine, and
    /// what well-behaved programs need is known: systemd's share for one service is 15% of 32,768 process ids
    /// (`DefaultTasksMax`), about 4,096, and a server with 65,536 connections is a large one.
    fn default() -> Self {
        Resources {
            memory: None,
            cpu: None,
            pids: 4_096,
            files: 65_536,
            disk: None,
        }
    }
}

impl Resources {
    /// # Errors
    /// A value is outside its limits; it is named.
    pub fn check(&self) -> Result<(), ResourceError> {
        if let Some(memory) = self.memory {
            let value = memory.0.0;
            between("memory", memory, value, MEMORY_LEAST, MEMORY_MOST, |n| {
                Memory(ByteSize(n)).to_string()
            })?;
        }
        if let Some(cpu) = self.cpu {
            let show = |n| Cpu(u32::try_from(n).unwrap_or(u32::MAX)).to_string();
            between("cpu", cpu, cpu.0.into(), CPU_LEAST, CPU_MOST, show)?;
        }
        if let Some(disk) = self.disk {
            let show = |n| Disk(ByteSize(n)).to_string();
            between("disk", disk, disk.0.0, DISK_LEAST, DISK_MOST, show)?;
        }
        let (pids, files) = (self.pids, self.files);
        let show = |n: u64| n.to_string();
        between("pids", pids, pids.into(), PIDS_LEAST, PIDS_MOST, show)?;
        between("files", files, files.into(), FILES_LEAST, FILES_MOST, show)
    }
}

fn between(
    what: &str,
    actual: impl fmt::Display,
    value: u64,
    least: Limit,
    most: Limit,
    show: impl Fn(u64) -> String,
) -> Result<(), ResourceError> {
    if value < least.max {
        return Err(ResourceError::TooSmall {
            what: what.to_owned(),
            actual: actual.to_string(),
            least: show(least.max),
            name: least.name.to_owned(),
        });
    }
    if value > most.max {
        return Err(ResourceError::TooLarge {
            what: what.to_owned(),
            actual: actual.to_string(),
            most: show(most.max),
            name: most.name.to_owned(),
        });
    }
    Ok(())
}

/// Bytes of memory: `512Mi`, `1Gi`, `536870912`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Memory(pub ByteSize);

impl Memory {
    pub const fn mib(n: u64) -> Memory {
        Memory(ByteSize::mib(n))
    }

    pub const fn bytes(self) -> u64 {
        self.0.0
    }
}

impl FromStr for Memory {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        read_bytes(text, "an amount of memory").map(Memory)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_bytes(self.0, f)
    }
}

/// Bytes on a disk: `10Gi`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Disk(pub ByteSize);

impl Disk {
    pub const fn mib(n: u64) -> Disk {
        Disk(ByteSize::mib(n))
    }

    pub const fn bytes(self) -> u64 {
        self.0.0
    }
}

impl FromStr for Disk {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        read_bytes(text, "an amount of disk").map(Disk)
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show_bytes(self.0, f)
    }
}

/// As the fields of resources are written elsewhere (Kubernetes: `Mi`, Docker: `m`), and as [`ByteSize`]s are here.
fn read_bytes(text: &str, what: &str) -> Result<ByteSize, TextError> {
    let long = text.ends_with("Ki")
        || text.ends_with("Mi")
        || text.ends_with("Gi")
        || text.ends_with("Ti");
    let read: Result<ByteSize, TextError> = if long {
        format!("{text}B").parse()
    } else {
        text.parse()
    };
    // Whatever is wrong, the units to use are these; `10MB` and `1.5Gi` among it.
    read.map_err(|_| {
        TextError::not(
            text,
            what,
            "write a whole number of bytes, or with a unit as in 512Mi or 2Gi",
        )
    })
}

fn show_bytes(size: ByteSize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let shown = size.to_string();
    f.write_str(shown.strip_suffix('B').unwrap_or(&shown))
}

/// Thousandths of a core: `500m` is half of one, `2` or `2000m` are two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cpu(pub u32);

impl Cpu {
    pub const fn millis(self) -> u32 {
        self.0
    }
}

/// More places would say less than a thousandth.
const CPU_PLACES: usize = 3;

impl FromStr for Cpu {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let millis = match text.strip_suffix('m') {
            Some(millis) => parse_number(millis),
            None => match text.split_once('.') {
                None => parse_number(text).and_then(|cores| cores.checked_mul(1000)),
                Some((cores, part)) if part.len() <= CPU_PLACES => parse_number(cores)
                    .and_then(|cores| cores.checked_mul(1000))
                    .zip(parse_number(&format!("{part:0<CPU_PLACES$}")))
                    .filter(|_| !part.is_empty())
                    .and_then(|(cores, part)| cores.checked_add(part)),
                Some(_) => None,
            },
        };
        let millis = millis.and_then(|millis| u32::try_from(millis).ok());
        millis.map(Cpu).ok_or_else(|| {
            TextError::not(
                text,
                "an amount of processor time",
                "write cores as in 2 or 0.5, or thousandths of one as in 500m",
            )
        })
    }
}

/// Whole cores as such, everything else in thousandths.
impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) {
            write!(f, "{}", self.0 / 1000)
        } else {
            write!(f, "{}m", self.0)
        }
    }
}

/// Memory and processor time together: what an instance asks for, or what a node has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amounts {
    pub memory_bytes: u64,
    pub cpu_millis: u64,
}

impl Amounts {
    pub const NONE: Amounts = Amounts {
        memory_bytes: 0,
        cpu_millis: 0,
    };

    /// What is limited is asked for; what has no limit asks for nothing.
    pub fn asked(resources: &Resources) -> Amounts {
        Amounts {
            memory_bytes: resources.memory.map_or(0, Memory::bytes),
            cpu_millis: resources.cpu.map_or(0, |cpu| cpu.millis().into()),
        }
    }

    #[must_use]
    pub fn plus(self, other: Amounts) -> Amounts {
        Amounts {
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
        }
    }

    #[must_use]
    pub fn minus(self, other: Amounts) -> Amounts {
        Amounts {
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
        }
    }
}

/// Bytes of memory for people: whole mebibytes, rounded down.
pub fn show_memory(bytes: u64) -> String {
    const MEBIBYTE: u64 = 1 << 20;
    let whole = if bytes >= MEBIBYTE {
        bytes - bytes % MEBIBYTE
    } else {
        bytes
    };
    Memory(ByteSize(whole)).to_string()
}

/// Thousandths of a core for people.
pub fn show_cpu(millis: u64) -> String {
    Cpu(u32::try_from(millis).unwrap_or(u32::MAX)).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_of_memory_are_read_and_shown() {
        for (text, bytes, shown) in [
            ("536870912", 512 << 20, "512Mi"),
            ("512Mi", 512 << 20, "512Mi"),
            ("512MiB", 512 << 20, "512Mi"),
            ("512m", 512 << 20, "512Mi"),
            ("1024Mi", 1 << 30, "1Gi"),
            ("64Ki", 64 << 10, "64Ki"),
            ("1Ti", 1 << 40, "1Ti"),
            ("1000", 1000, "1000"),
        ] {
            let memory: Memory = text.parse().unwrap();
            assert_eq!(
                (memory.bytes(), memory.to_string().as_str()),
                (bytes, shown)
            );
            assert_eq!(text.parse(), Ok(Disk(ByteSize(bytes))));
        }
        for bad in ["", "Mi", "1.5Gi", "512 Mi", "-1", "512MB", "512mi", "9e9"] {
            let error = bad.parse::<Memory>().unwrap_err().to_string();
            assert!(error.contains("512Mi"), "{error}");
        }
    }

    #[test]
    fn amounts_of_processor_time_are_read_and_shown() {
        for (text, millis, shown) in [
            ("500m", 500, "500m"),
            ("1000m", 1000, "1"),
            ("1", 1000, "1"),
            ("2", 2000, "2"),
            ("0.5", 500, "500m"),
            ("1.25", 1250, "1250m"),
            ("0.001", 1, "1m"),
        ] {
            let cpu: Cpu = text.parse().unwrap();
            assert_eq!((cpu.millis(), cpu.to_string().as_str()), (millis, shown));
        }
        for bad in [
            "", "m", ".5", "1.", "0.0001", "-1", "1c", "50%", "9999999", "1.5m",
        ] {
            assert!(bad.parse::<Cpu>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_outside_its_limits_is_named() {
        Resources::default().check().unwrap();
        let default = Resources::default();
        let refused = |resources: Resources| resources.check().unwrap_err().to_string();
        assert_eq!(
            refused(Resources {
                memory: Some(Memory::mib(5)),
                ..default
            }),
            "memory is 5Mi: it must be at least 6Mi (memory_least)"
        );
        assert_eq!(
            refused(Resources {
                cpu: Some(Cpu(2_000_000)),
                ..default
            }),
            "cpu is 2000: it must be at most 1024 (cpu_most)"
        );
        assert_eq!(
            refused(Resources { pids: 1, ..default }),
            "pids is 1: it must be at least 4 (pids_least)"
        );
        assert!(
            refused(Resources {
                files: 3,
                ..default
            })
            .contains("files_least")
        );
        let disk = Some(Disk(ByteSize(1 << 50)));
        assert!(refused(Resources { disk, ..default }).contains("disk_most"));
    }

    proptest! {
        #[test]
        fn every_amount_reads_back(bytes in 0..1u64 << 46, millis in 0u32..1_024_000) {
            let memory = Memory(ByteSize(bytes));
            prop_assert_eq!(memory.to_string().parse(), Ok(memory));
            prop_assert_eq!(Cpu(millis).to_string().parse(), Ok(Cpu(millis)));
        }
    }
}
