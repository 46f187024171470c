//! Steps of a child on its way to the program, and the credentials it takes on.

/// Credentials are the user and groups a program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Every group, the primary one included.
    pub groups: Vec<u32>,
}

/// Step is what the child was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    Session = 1,
    OomScore,
    Descriptors,
    Streams,
    Terminal,
    Groups,
    Group,
    User,
    Directory,
    Program,
    Network,
    Root,
    Capabilities,
    Limits,
    Inherited,
}

impl Step {
    /// Step of this number, if there is one.
    pub(super) fn from_number(number: u32) -> Option<Self> {
        use Step::*;
        [
            Session,
            OomScore,
            Descriptors,
            Streams,
            Terminal,
            Groups,
            Group,
            User,
            Directory,
            Program,
            Network,
            Root,
            Capabilities,
            Limits,
            Inherited,
        ]
        .into_iter()
        .find(|step| *step as u32 == number)
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Step::Session => "begin a session",
            Step::OomScore => "set its memory priority",
            Step::Descriptors => "set its limit of open files",
            Step::Streams => "connect its streams",
            Step::Terminal => "take its terminal",
            Step::Groups => "set its groups",
            Step::Group => "set its group",
            Step::User => "become its user",
            Step::Directory => "enter its directory",
            Step::Program => "execute it",
            Step::Network => "enter its network",
            Step::Root => "make its file system",
            Step::Capabilities => "take its capabilities away",
            Step::Limits => "set its limits",
            Step::Inherited => "hand on its files",
        })
    }
}
