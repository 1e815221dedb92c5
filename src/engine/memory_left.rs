//! How much memory this process may still take before somebody ends it: by its cgroups, its address space and the machine.

use std::path::Path;

/// Part of what is free on the machine that one process takes: others live there too.
const OF_THE_MACHINE: u64 = 2;
/// Part of the free address space: threads and the allocator take room there that they never touch.
const OF_THE_ADDRESSES: u64 = 2;

/// The least of what is left, and what says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLeft {
    /// Bytes.
    pub bytes: u64,
    /// The bound, for a message.
    pub bound: String,
}

impl MemoryLeft {
    /// What is left to this process, from the files of proc(5) and cgroups(7) under `root`, which is `/` but in tests; `None`
    /// if nothing says.
    pub fn read(root: &Path) -> Option<Self> {
        let cgroups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let limited = cgroups.lines().flat_map(|line| of_cgroup(root, line));
        limited.chain(of_addresses(root)).chain(of_machine(root)).min_by_key(|left| left.bytes)
    }
}

/// The names of a version's files, and what each calls the memory that the kernel takes back before it ends anybody.
struct Version {
    mounts: &'static [&'static str],
    limits: &'static [&'static str],
    used: &'static str,
    reclaimable: [&'static str; 2],
}

const V1: Version = Version {
    mounts: &["sys/fs/cgroup/memory"],
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    reclaimable: ["total_inactive_file", "total_active_file"],
};
// Above memory.high a process is not ended, but hardly runs.
const V2: Version = Version {
    mounts: &["sys/fs/cgroup", "sys/fs/cgroup/unified"],
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    reclaimable: ["inactive_file", "active_file"],
};

/// What each cgroup from the one of `line` (`ID:CONTROLLERS:PATH`) up to the topmost leaves. In a container the path may be
/// the host's, of which only the container's own end is mounted: so what is not there is passed over.
fn of_cgroup(root: &Path, line: &str) -> Vec<MemoryLeft> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let version = match controllers {
        "" => &V2,
        list if list.split(',').any(|name| name == "memory") => &V1,
        _ => return Vec::new(),
    };
    let paths = Path::new(path.trim_start_matches('/'));
    let folders = version.mounts.iter().flat_map(|mount| paths.ancestors().map(|path| Path::new(mount).join(path)));
    folders.flat_map(|folder| version.left(root, &folder)).collect()
}

impl Version {
    fn left(&self, root: &Path, folder: &Path) -> Vec<MemoryLeft> {
        let text = |name: &str| std::fs::read_to_string(root.join(folder).join(name)).ok();
        // `max`, for no limit, is no number.
        let number = |name: &str| text(name)?.trim().parse::<u64>().ok();
        let Some(used) = number(self.used) else { return Vec::new() };
        let stat = text("memory.stat").unwrap_or_default();
        let back: u64 = self.reclaimable.iter().filter_map(|name| field(&stat, name)).sum();
        let limits = self.limits.iter().filter_map(|name| Some((name, number(name)?)));
        let left = limits.map(|(name, limit)| MemoryLeft {
            bytes: limit.saturating_sub(used.saturating_sub(back)),
            bound: format!("{limit} bytes of /{}", folder.join(name).display()),
        });
        left.collect()
    }
}

/// The first number after `name` in a file of lines.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest =
        text.lines().find_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '\t', ':'])))?;
    rest.trim_start_matches(':').split_whitespace().next()?.parse().ok()
}

fn of_addresses(root: &Path) -> Option<MemoryLeft> {
    let text = |name: &str| std::fs::read_to_string(root.join("proc/self").join(name)).ok();
    // `unlimited` is no number.
    let limit = field(&text("limits")?, "Max address space")?;
    let used = field(&text("status")?, "VmSize")?.saturating_mul(1024);
    let bytes = limit.saturating_sub(used) / OF_THE_ADDRESSES;
    Some(MemoryLeft { bytes, bound: format!("half of the address space left of {limit} bytes (ulimit -v)") })
}

fn of_machine(root: &Path) -> Option<MemoryLeft> {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let available = field(&text, "MemAvailable")?.saturating_mul(1024);
    let bound = format!("half of the machine's {available} available bytes");
    Some(MemoryLeft { bytes: available / OF_THE_MACHINE, bound })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// What is left where these files are planted, beside 8 GiB on the machine.
    fn left(files: &[(&str, &str)]) -> (u64, String) {
        let root = tempfile::tempdir().unwrap();
        let machine = [("proc/meminfo", "MemTotal: 99 kB\nMemAvailable:   16777216 kB\n")];
        for (path, text) in machine.iter().chain(files) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let left = MemoryLeft::read(root.path()).unwrap();
        (left.bytes, left.bound)
    }

    #[test]
    fn without_a_limit_half_of_what_the_machine_has_is_left() {
        let machine = (8 * GIB, "half of the machine's 17179869184 available bytes".to_owned());
        assert_eq!(left(&[]), machine);
        let root = "sys/fs/cgroup/memory.max";
        assert_eq!(left(&[("proc/self/cgroup", "0::/\n"), (root, "max\n")]), machine);
        let v1 = [
            ("proc/self/cgroup", "4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "500\n"),
        ];
        assert_eq!(left(&v1), machine);
        assert_eq!(left(&[("proc/self/limits", "Max address space  unlimited  unlimited  bytes\n")]), machine);
        assert_eq!(MemoryLeft::read(Path::new("/no/such/place")), None);
    }

    #[test]
    fn the_smallest_of_nested_cgroups_counts_without_what_the_kernel_takes_back() {
        let nested = |inner: &'static str, outer: &'static str| {
            left(&[
                ("proc/self/cgroup", "3:cpuset:/\n0::/pod/container\n"),
                ("sys/fs/cgroup/pod/container/memory.max", inner),
                ("sys/fs/cgroup/pod/container/memory.current", "1073741824\n"),
                ("sys/fs/cgroup/pod/container/memory.stat", "anon 9\ninactive_file 100\nactive_file 23\nfile 200\n"),
                ("sys/fs/cgroup/pod/memory.max", outer),
                ("sys/fs/cgroup/pod/memory.current", "2147483648\n"),
            ])
        };
        let of = |path: &str, limit: u64| format!("{limit} bytes of /sys/fs/cgroup/{path}/memory.max");
        assert_eq!(nested("3221225472", "max"), (2 * GIB + 123, of("pod/container", 3 * GIB)));
        assert_eq!(nested("max", "3221225472"), (GIB, of("pod", 3 * GIB)));
        assert_eq!(nested("5368709120", "3221225472"), (GIB, of("pod", 3 * GIB)));
        assert_eq!(nested("1073741824", "max").0, 123, "full but for what can be taken back");
        assert_eq!(nested("99", "max").0, 0, "over its limit");
    }

    #[test]
    fn a_container_that_sees_the_hosts_path_is_found_at_its_mount() {
        let v1 = [
            ("proc/self/cgroup", "7:cpu,memory:/docker/0123\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1073741824\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 5\ntotal_inactive_file 7\ntotal_active_file 1\n"),
        ];
        assert_eq!(left(&v1).0, GIB + 8);
        let high = [
            ("proc/self/cgroup", "0::/../..\n"),
            ("sys/fs/cgroup/memory.max", "max"),
            ("sys/fs/cgroup/memory.high", "2147483648"),
            ("sys/fs/cgroup/memory.current", "0"),
        ];
        assert_eq!(left(&high).0, 2 * GIB);
    }

    #[test]
    fn an_address_space_with_a_limit_counts_half() {
        let files = [
            (
                "proc/self/limits",
                "Limit  Soft Limit  Hard Limit  Units\nMax address space  3221225472  unlimited  bytes\n",
            ),
            ("proc/self/status", "VmPeak:  9 kB\nVmSize:  1048576 kB\n"),
        ];
        assert_eq!(left(&files).0, GIB);
    }
}
