//! Users and groups of this system, read from `/etc/passwd` and `/etc/group`.
//!
//! Not by libc's resolver: a static program would need the very libc it was linked with at run time.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of either file that are read: users of a sandbox may edit them.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Supplementary groups of one user: Linux's own NGROUPS_MAX is larger, but no sane system comes near this.
const GROUPS_MAX: usize = 1024;

/// A user as the system knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    pub home: PathBuf,
    /// Login shell; `/bin/sh` where the entry names none.
    pub shell: PathBuf,
    /// Every group the user is in, the primary one first: what `initgroups` would set.
    pub groups: Vec<u32>,
}

impl User {
    /// Looks a user up by name.
    ///
    /// # Errors
    /// `/etc/passwd` or `/etc/group` cannot be read. A user who is not there is `None`.
    pub fn find(name: &str) -> io::Result<Option<Self>> {
        let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
        Ok(parse_passwd(&passwd).find(|user| user.name == name).map(|user| user.with_groups(&group)))
    }

    /// The name as a C string; names in `/etc/passwd` hold no NUL.
    pub fn name_c(&self) -> CString {
        CString::new(self.name.as_str()).unwrap_or_default()
    }

    fn with_groups(mut self, group: &str) -> Self {
        let member =
            |line: &&str| line.rsplit(':').next().is_some_and(|all| all.split(',').any(|one| one == self.name));
        let gids = group.lines().filter(member).filter_map(|line| line.split(':').nth(2)?.parse().ok());
        let mut groups = vec![self.gid];
        for gid in gids {
            if groups.len() < GROUPS_MAX && !groups.contains(&gid) {
                groups.push(gid);
            }
        }
        self.groups = groups;
        self
    }
}

/// Names by number, for listings: reads each file once.
#[derive(Debug, Default)]
pub struct Names {
    users: std::collections::HashMap<u32, String>,
    groups: std::collections::HashMap<u32, String>,
}

impl Names {
    /// Reads both files; one that cannot be read leaves its numbers without names.
    pub fn load() -> Self {
        let passwd = read("/etc/passwd").unwrap_or_default();
        let group = read("/etc/group").unwrap_or_default();
        let gid = |line: &str| -> Option<(u32, String)> {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            Some((fields.nth(1)?.parse().ok()?, name))
        };
        let mut names = Self::default();
        for user in parse_passwd(&passwd) {
            names.users.entry(user.uid).or_insert(user.name);
        }
        for (number, name) in group.lines().filter_map(gid) {
            names.groups.entry(number).or_insert(name);
        }
        names
    }

    /// The user's name, or the number in decimal.
    pub fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    /// The group's name, or the number in decimal.
    pub fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_else(|| gid.to_string())
    }
}

fn parse_passwd(text: &str) -> impl Iterator<Item = User> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let (_full_name, home) = (fields.next()?, fields.next()?);
        let shell = fields.next().filter(|shell| !shell.is_empty()).unwrap_or("/bin/sh");
        if name.is_empty() {
            return None;
        }
        let home = Path::new(if home.is_empty() { "/" } else { home }).to_owned();
        Some(User { name: name.to_owned(), uid, gid, home, shell: shell.into(), groups: vec![gid] })
    })
}

fn read(path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_lines_are_passed_over_and_groups_are_gathered() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\n\nbroken\n:x:1:1::/:\nme:x:1000:1000::/home/me:\nbad:x:no:0::/:\n";
        let names: Vec<_> = parse_passwd(passwd).map(|user| user.name).collect();
        assert_eq!(names, ["root", "me"]);
        let me =
            parse_passwd(passwd).nth(1).unwrap().with_groups("sudo:x:27:me\nme:x:1000:\nusers:x:100:you,me\nx:y\n");
        assert_eq!((me.shell.as_path(), me.groups), (Path::new("/bin/sh"), vec![1000, 27, 100]));
    }

    #[test]
    fn root_is_everywhere() {
        let root = User::find("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(User::find("no-such-user-here").unwrap(), None);
        assert_eq!(Names::load().user(0), "root");
        assert_eq!(Names::load().group(4_000_000_000), "4000000000");
    }
}
