//! Every bound in one place, with its unit and the reason for the number.

use std::time::Duration;

/// vCPUs of one sandbox. Above this one guest can starve a small host.
pub const VCPUS_MAX: u32 = 32;
/// MiB of one sandbox. Below this a Debian guest does not boot.
pub const MEMORY_MIB_MIN: u32 = 128;
/// MiB of one sandbox: 256 GiB, more than any host we plan for hands to one guest.
pub const MEMORY_MIB_MAX: u32 = 262_144;
/// MiB of one sandbox's disk: 1 TiB.
pub const DISK_MIB_MAX: u32 = 1_048_576;
/// Seconds of inactivity: 30 days. A longer wish is "never".
pub const TIMEOUT_SEC_MAX: u32 = 2_592_000;
/// Seconds: shorter time-outs would pause a sandbox between two commands of one person.
pub const TIMEOUT_SEC_MIN: u32 = 60;

/// Labels on a sandbox.
pub const METADATA_KEYS_MAX: usize = 20;
/// Characters of a label's value.
pub const METADATA_VALUE_CHARS_MAX: usize = 64;

/// Bytes of a path inside the guest: Linux's own PATH_MAX.
pub const GUEST_PATH_BYTES_MAX: usize = 4096;
/// Bytes of a JSON request body. The largest legal one is an exec with arguments and 1 MiB of input in base64.
pub const JSON_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a buffered upload (`files/write`). Larger files go over `files/stream/write`.
pub const FILE_WRITE_BYTES_MAX: u64 = 100 * 1024 * 1024;
/// Bytes of a buffered download (`files/read`). Larger files go over `files/stream/read`.
pub const FILE_READ_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes of output a foreground exec may collect, both streams together. What prints more must stream.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of standard input in an exec request.
pub const EXEC_STDIN_BYTES_MAX: usize = 1024 * 1024;
/// Arguments of one command: as many as Linux takes when they are empty (2 MiB for all, 8 bytes and an end for each), rounded up. The
/// kernel decides about longer ones.
pub const EXEC_ARGS_MAX: usize = 256 * 1024;
/// Bytes of one argument or environment value: Linux's MAX_ARG_STRLEN.
pub const EXEC_ARG_BYTES_MAX: usize = 128 * 1024;
/// Environment variables of one command.
pub const EXEC_ENVS_MAX: usize = 256;
/// Foreground exec when no time-out is given.
pub const EXEC_TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Longest foreground exec: proxies cut longer requests anyway; use background or a stream.
pub const EXEC_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Bytes of a process tag.
pub const PROCESS_TAG_BYTES_MAX: usize = 128;
/// Levels a directory listing may descend.
pub const LIST_DEPTH_MAX: u32 = 32;
/// Entries of one directory listing.
pub const LIST_ENTRIES_MAX: usize = 100_000;
/// Bytes of names and paths in one listing; with its entries' fixed parts that stays below what clients take (64 MiB).
pub const LIST_TEXT_BYTES_MAX: usize = 24 * 1024 * 1024;
/// Levels of a tree that is removed: far beyond any path, and the way back up is kept in memory.
pub const REMOVE_DEPTH_MAX: usize = 100_000;

/// Bytes a file is read, written and sent in: large enough that a thread's turn costs little beside the copy, small
/// enough that every transfer under way can hold a few.
pub const FILE_CHUNK_BYTES: usize = 256 * 1024;
/// Uploads and downloads of one guest under way at once. Each holds up to three chunks.
pub const FILE_TRANSFERS_MAX: usize = 64;
/// Listings, removals and tree scans of one guest under way at once; each keeps one of envd's 16 file threads busy.
pub const FILE_WALKS_MAX: usize = 6;
/// Wait for one of those places before the call is refused with "try again".
pub const FILE_PLACE_WAIT_MAX: Duration = Duration::from_secs(20);
/// Silence in an upload before it is given up. A program may think long before it prints.
pub const UPLOAD_SILENCE_MAX: Duration = Duration::from_secs(600);
/// Files in one multipart upload: all are kept open until all are whole.
pub const UPLOAD_FILES_MAX: usize = 256;
/// Bytes of one part's head (names and headers) in a multipart upload, or of padding between parts.
pub const UPLOAD_PART_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Time for which the body of a request that was answered early is still read, so that its sender sees the answer.
pub const REFUSED_BODY_WAIT_MAX: Duration = Duration::from_secs(5);
/// Bytes of it that are read as fast as they come.
pub const REFUSED_BODY_QUICK_BYTES: usize = 64 * 1024 * 1024;
/// Between the pieces that are read afterwards.
pub const REFUSED_BODY_PAUSE: Duration = Duration::from_millis(50);

/// Processes envd keeps track of at once; a fork bomb must not grow its tables.
pub const GUEST_PROCESSES_MAX: usize = 1024;
/// Bytes of recent output kept per process for those who attach later.
pub const PROCESS_REPLAY_BYTES: usize = 256 * 1024;
/// Bytes of output a process may be ahead of its slowest reader before it is made to wait.
pub const PROCESS_AHEAD_BYTES: usize = 1024 * 1024;
/// Bytes of output in one message to a reader: more would only sit in buffers on the way.
pub const PROCESS_PIECE_BYTES: usize = 64 * 1024;
/// Changes between standard output and error kept per process, 16 bytes each: bounds a program that alternates with
/// every byte.
pub const PROCESS_RUNS_MAX: usize = 4096;
/// Readers of one process's output at once.
pub const PROCESS_READERS_MAX: usize = 64;
/// Loading a program: past this its file system does not answer, or somebody stopped it on its way.
pub const PROCESS_START_MAX: Duration = Duration::from_secs(30);
/// Silence on the pipes of an ended process after which nobody waits for programs it left behind with them.
pub const PROCESS_EOF_IDLE_MAX: Duration = Duration::from_millis(250);
/// Longest wait, all in all, for programs left behind that go on printing.
pub const PROCESS_EOF_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long an ended process's output and exit code can still be asked for.
pub const PROCESS_ENDED_KEPT: Duration = Duration::from_secs(60);
/// Ended processes kept at once; the oldest goes first.
pub const PROCESSES_ENDED_MAX: usize = 64;
/// Bytes of output kept of all ended processes together: envd's memory is the user's.
pub const PROCESSES_ENDED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Calls that wait to feed one process; each holds its message.
pub const PROCESS_INPUT_CALLS_MAX: usize = 16;
/// Programs left behind by ended processes whose output is read and thrown away, so that printing does not end them.
pub const PROCESS_LEFTOVERS_MAX: usize = 256;
/// Bytes of a command kept for listings, arguments and environment together; a longer one is listed cut off.
pub const PROCESS_LISTED_BYTES: usize = 16 * 1024;
/// Empty cgroups kept for the next processes, per kind: making one costs as much as starting a process.
pub const PROCESS_CGROUPS_KEPT: usize = 16;
/// Bytes of one RPC message to envd: 4 MiB of input in base64, and its envelope.
pub const GUEST_MESSAGE_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Descriptors envd may have open: five for each process, one for each connection, and as many again for files.
pub const GUEST_DESCRIPTORS_MAX: u64 = 16 * 1024;
/// How far programs in a guest may raise their own limit of descriptors, as on any Linux with systemd.
pub const GUEST_DESCRIPTORS_HARD: u64 = 524_288;
/// Watchers in one guest.
pub const WATCHERS_MAX: usize = 256;
/// Events a polled watcher keeps until the next poll; then it reports that it lost some.
pub const WATCHER_EVENTS_MAX: usize = 4096;
/// Bytes of names such a watcher keeps: all watchers together stay below a small guest's memory.
pub const WATCHER_EVENT_BYTES_MAX: usize = 256 * 1024;
/// Directories watched in one guest, over all watchers. Each costs about a KiB of kernel memory.
pub const WATCHED_DIRECTORIES_MAX: usize = 16_384;
/// A polled watcher nobody asked for this long is dropped.
pub const WATCHER_IDLE_MAX: Duration = Duration::from_secs(600);
/// Silence on a stream before envd sends a keepalive event; below the 60 s at which balancers cut.
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);

/// Calls under way through the relay to one guest: two for each of its WebSockets (output, and input while somebody types), and as
/// many again as one for each, so that looking at processes and files always finds a place.
pub const RELAY_CALLS_MAX: usize = 384;
/// Sandboxes one agent holds: bounded by its network slots.
pub const SANDBOXES_PER_HOST_MAX: usize = 4096;
/// Boot to ready, without hardware virtualisation on a busy machine.
pub const GUEST_READY_MAX: Duration = Duration::from_secs(120);
/// Bytes a capture must leave free: a pause may use the reserve that creates may not, so that it can always be made.
pub const PAUSE_DISK_RESERVE_BYTES: u64 = 256 * 1024 * 1024;
/// How long a host remembers that a sandbox was deleted before it was created.
pub const TOMBSTONE_KEPT: Duration = Duration::from_secs(600);
/// Longest wait of a ListSandboxes call.
pub const LIST_WAIT_MAX: Duration = Duration::from_secs(30);
/// Bytes the agent keeps free on its disk; below this it refuses new sandboxes so that the running ones can write.
pub const HOST_DISK_RESERVE_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// Rows a background task takes at once; more than its workers can drive before the lease ends would be wasted.
pub const LEASE_BATCH_MAX: u32 = 64;
/// Calls to hosts under way at once for creates, and as many for deletes.
pub const HOST_CALLS_MAX: usize = 64;
/// A host not heard of for this long is taken to be away; three missed polls of the slowest kind.
pub const HOST_SILENCE_MAX: Duration = Duration::from_secs(90);
/// How long a create may go on while its host does not take it, before it is given up.
pub const CREATE_GIVE_UP: Duration = Duration::from_secs(120);
/// Waiting for a database connection or answer before the request is refused with "try again".
pub const DATABASE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Age at which a looked-up API key is looked up again: a revoked key works no longer than this.
pub const KEY_CACHE_AGE_MAX: Duration = Duration::from_secs(1);
/// Looked-up API keys kept in memory, about 200 bytes each.
pub const KEY_CACHE_ENTRIES_MAX: usize = 10_000;
/// Look-ups of API keys in the database at once: anybody may send keys that do not exist.
pub const KEY_LOOKUPS_MAX: usize = 8;
/// Such look-ups for one network at once.
pub const KEY_LOOKUPS_PER_NETWORK_MAX: usize = 4;
/// Last-used and last-active marks gathered before they are written, per kind.
pub const TOUCHES_MAX: usize = 10_000;
/// API connections open at once: each costs a few KiB and a file descriptor.
pub const CONNECTIONS_MAX: usize = 8192;
/// API connections of one network open at once, but for trusted proxies: twice the WebSockets of one credential.
pub const CONNECTIONS_PER_NETWORK_MAX: usize = 2048;
/// File descriptors a control plane needs beside its connections, tunnels and database: logs, Redis, hosts, mails, calls of channels.
pub const DESCRIPTORS_KEPT: usize = 512;
/// Time from the end of one answer to the end of the next request's head: longer than balancers keep unused connections (600 s
/// at most), so that it is they who close them; a server that does so first breaks requests on their way.
pub const REQUEST_HEAD_MAX: Duration = Duration::from_secs(620);
/// Time for a client's first byte: who connects and says nothing holds a descriptor that others need.
pub const FIRST_BYTE_MAX: Duration = Duration::from_secs(30);
/// Headers of a request; the bound in bytes is what usually counts. Room for all of
/// them is made while a head is read.
pub const REQUEST_HEADERS_MAX: usize = 200;
/// Headers of an answer that a guest's server gives.
pub const PROXY_HEADERS_MAX: usize = 512;
/// Bytes of answers one control plane collects at once before it sends them: outputs of commands, lists of directories.
pub const ANSWER_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Such bytes for one credential.
pub const ANSWER_BYTES_PER_CREDENTIAL_MAX: usize = 128 * 1024 * 1024;
/// Bytes of request bodies one control plane collects at once.
pub const BODY_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Such bytes from one network.
pub const BODY_BYTES_PER_NETWORK_MAX: usize = 64 * 1024 * 1024;
/// Time within which a client must take the next bytes of an answer; what is held for one that does not is given up with its connection.
pub const ANSWER_PROGRESS_MAX: Duration = Duration::from_secs(30);
/// Time for a client to send a JSON body.
pub const JSON_BODY_WAIT_MAX: Duration = Duration::from_secs(30);
/// Time for the first frame of a WebSocket.
pub const FIRST_FRAME_MAX: Duration = Duration::from_secs(10);
/// Bytes of one WebSocket message from a client: published clients send a whole paste as one.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Capsules in one list; a team above it is told so rather than shown a part.
pub const LIST_CAPSULES_MAX: i64 = 10_000;
/// Templates in one list.
pub const LIST_TEMPLATES_MAX: i64 = 10_000;
/// Time requests under way have to finish at shutdown.
pub const SHUTDOWN_WAIT_MAX: Duration = Duration::from_secs(30);

/// Children of one fork: each costs a file copy on the host while the source stands still.
pub const FORK_CHILDREN_MAX: u32 = 100;
/// One SnapshotSandbox or ForkSandbox call: the host writes memory to disk before it answers, at worst the memory of a
/// large guest to a slow disk. The call is repeatable, so one that takes longer is simply asked again.
pub const CAPTURE_CALL_MAX: Duration = Duration::from_secs(600);
/// How long a fork request waits for its host before it answers with children that are still starting; below the minute at
/// which clients and proxies cut.
pub const FORK_WAIT_MAX: Duration = Duration::from_secs(50);
/// A snapshot that was given up is deleted at its host again until this long after: the host may have been writing it.
pub const DISCARD_REPEAT: Duration = Duration::from_secs(60);

/// Bytes of an e-mail address: the longest a mail server takes.
pub const EMAIL_BYTES_MAX: usize = 254;
/// Characters of a person's name.
pub const PERSON_NAME_CHARS_MAX: usize = 100;
/// Characters of a team's name.
pub const TEAM_NAME_CHARS_MAX: usize = 128;
/// Characters of an API key's name.
pub const KEY_NAME_CHARS_MAX: usize = 128;
/// Characters of a password: shorter ones are guessed offline in hours whatever the hash.
pub const PASSWORD_CHARS_MIN: usize = 8;
/// Bytes of a password: long passphrases fit, and hashing one stays cheap beside Argon2 itself.
pub const PASSWORD_BYTES_MAX: usize = 1024;
/// Password hashes computed at once: each takes 19 MiB and a core for some 30 ms.
pub const PASSWORD_HASHES_MAX: usize = 2;
/// Password hashes for one network at once: a flood from one place leaves the other turn to everybody else.
pub const PASSWORD_HASHES_PER_NETWORK_MAX: usize = 1;
/// Wait for a turn to hash; a flood of logins gets 429 instead of a queue without end.
pub const PASSWORD_WAIT_MAX: Duration = Duration::from_secs(5);
/// A session that was not used for this long is over.
pub const SESSION_IDLE_MAX: Duration = Duration::from_secs(6 * 3600);
/// A session is over this long after the login, however much it is used.
pub const SESSION_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Age at which one process looks a session up again.
pub const SESSION_CACHE_AGE_MAX: Duration = Duration::from_secs(1);
/// Age at which a session in Redis is looked up in the database again. A revocation is told to Redis at once; this bounds
/// what a revocation costs that could not be told.
pub const SESSION_SHARED_AGE_MAX: Duration = Duration::from_secs(10);
/// Sessions kept in one process's memory, about 500 bytes each.
pub const SESSION_CACHE_ENTRIES_MAX: usize = 10_000;
/// Sessions of one user at once; the oldest goes when one more is made.
pub const SESSIONS_PER_USER_MAX: i64 = 100;
/// Bytes kept of a browser's name.
pub const USER_AGENT_BYTES_MAX: usize = 256;
/// Life of an activation token; as long a pending sign-up keeps its e-mail address for itself.
pub const ACTIVATION_AGE_MAX: Duration = Duration::from_secs(30 * 60);
/// Life of a password-reset token.
pub const RESET_AGE_MAX: Duration = Duration::from_secs(15 * 60);
/// Life of a device login that nobody approved.
pub const DEVICE_AGE_MAX: Duration = Duration::from_secs(10 * 60);
/// Between two questions of a device whether it was approved.
pub const DEVICE_POLL_EVERY: Duration = Duration::from_secs(2);
/// Life of an OAuth round trip through the provider.
pub const OAUTH_AGE_MAX: Duration = Duration::from_secs(600);
/// One call to an OAuth provider.
pub const OAUTH_CALL_MAX: Duration = Duration::from_secs(10);
/// Making a connection to another site: a login provider, a channel.
pub const SITE_CONNECT_MAX: Duration = Duration::from_secs(5);
/// Bytes of another site's answer.
pub const SITE_ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Between a user's wish to be deleted and the deletion of what is left of the account.
pub const ACCOUNT_KEPT: Duration = Duration::from_secs(15 * 24 * 3600);
/// Longest life of an API key with an expiry, days: ten years; longer is "never".
pub const KEY_DAYS_MAX: i64 = 3650;
/// Days a key made by `wrenn login` lives.
pub const LOGIN_KEY_DAYS: i64 = 90;
/// API keys of one team at once.
pub const KEYS_PER_TEAM_MAX: i64 = 1000;
/// Members of one team.
pub const MEMBERS_PER_TEAM_MAX: i64 = 1000;
/// Teams of one user.
pub const TEAMS_PER_USER_MAX: i64 = 100;
/// Rows of one page of the audit log at most, and when no limit is asked.
pub const AUDIT_PAGE_MAX: i64 = 200;
pub const AUDIT_PAGE_DEFAULT: i64 = 50;
/// Rows of one page of the admin lists.
pub const ADMIN_PAGE: i64 = 100;
/// Life of the certificate the control plane shows to hosts; it takes a new one when half of it is over.
pub const CLIENT_CERTIFICATE_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Mails, and calls of account hooks, under way at once: one slow server must not hold up all.
pub const OUTBOUND_JOBS_AT_ONCE_MAX: usize = 8;
/// Sending one mail.
pub const MAIL_SEND_MAX: Duration = Duration::from_secs(30);
/// First and longest pause before a mail is tried again; it doubles.
pub const MAIL_RETRY_MIN: Duration = Duration::from_secs(2);
pub const MAIL_RETRY_MAX: Duration = Duration::from_secs(1800);
/// Tries to send one mail: with the pauses above a mail server may be away for two hours.
pub const MAIL_TRIES_MAX: u32 = 13;
/// Calls of a distribution's hooks for one account's end; more only when each killed its process.
pub const ACCOUNT_HOOK_TRIES_MAX: u32 = 8;
/// How long a mail or call that was given up is kept for who looks for it.
pub const OUTBOUND_JOB_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// One call of a distribution's hook.
pub const HOOK_WAIT_MAX: Duration = Duration::from_secs(10);
/// One question to a distribution's limits or usage provider: it is asked while a create waits.
pub const QUOTA_WAIT_MAX: Duration = Duration::from_secs(3);
/// Tries to deliver one event to one consumer group before it goes to the dead letters.
pub const EVENT_TRIES_MAX: u32 = 8;
/// Events relayed or read at once.
pub const EVENT_BATCH_MAX: usize = 100;
/// Entries the Redis stream keeps, about; what it drops is found in the outbox.
pub const EVENT_STREAM_ENTRIES: usize = 10_000;
/// How long the outbox keeps an event after it was relayed.
pub const EVENT_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Dead letters in one list.
pub const DEAD_LETTERS_LIST_MAX: i64 = 200;

// WebSockets of clients.

/// WebSockets one key or session may have open: each costs some 30 KB and two connections.
pub const STREAMS_PER_CREDENTIAL_MAX: usize = 1000;
/// WebSockets of one control plane at once: half of the connections it takes.
pub const STREAMS_MAX: usize = 4096;
/// WebSockets into one sandbox: a third of what its relay takes, see there.
pub const STREAMS_PER_SANDBOX_MAX: usize = 128;
/// Messages a second taken from one WebSocket. A person types fifty; above it the socket is read more slowly, and nothing is lost.
pub const STREAM_MESSAGES_PER_SEC_MAX: u32 = 1000;
/// Messages taken at once after a rest.
pub const STREAM_MESSAGES_BURST: u32 = 2000;
/// Bytes of input that wait for a process, not counting the message that reached it; then the socket is not read.
pub const STREAM_INPUT_BYTES_MAX: usize = 1024 * 1024;
/// Changes from keystrokes to resizes and back that wait for a process; then the socket is not read.
pub const STREAM_INPUT_PIECES_MAX: usize = 256;
/// Bytes of input that travel to a process in one call; so many are kept until it has answered.
pub const STREAM_INPUT_RUN_BYTES: usize = 256 * 1024;
/// Silence after which such a call is ended: an idle terminal holds no second connection.
pub const STREAM_INPUT_SILENCE_MAX: Duration = Duration::from_secs(10);
/// Bytes of a WebSocket's read buffer, held while it is open; larger messages grow it.
pub const STREAM_READ_BUFFER_BYTES: usize = 1024;
/// Bytes of the read buffer of its connection to the host, held twice: the answer's head, a few hundred bytes, keeps the first.
pub const STREAM_HOST_BUFFER_BYTES: usize = 1024;
/// Between two pings on a WebSocket; below the 60 s at which balancers cut.
pub const STREAM_PING_EVERY: Duration = Duration::from_secs(30);
/// A peer that was silent for three pings, and took no output either, is gone.
pub const STREAM_SILENCE_MAX: Duration = Duration::from_secs(90);
/// Time for the last frames of a WebSocket, and for keystrokes still on their way when the client has left.
pub const STREAM_FAREWELL_MAX: Duration = Duration::from_secs(3);
/// Between two marks of activity of one stream; that often they are written.
pub const STREAM_TOUCH_EVERY: Duration = Duration::from_secs(5);
/// Output of a terminal that nobody typed for is gathered this long, so that a flood comes in few frames.
pub const PTY_GATHER_MAX: Duration = Duration::from_millis(5);
// What is watched while it happens.

/// Events and changes of state read, ordered or replayed at once: a few hundred KiB.
pub const LIVE_BATCH_MAX: i64 = 500;
/// Events one stream is told again; who missed more is told the newest ones, and that there is a gap.
pub const LIVE_REPLAY_MAX: i64 = 10_000;
/// Frames that wait for one slow reader of events before its stream is ended: two whole batches, so that a burst ends nobody's who
/// reads. About 1 KiB each, made once for all readers. Its client comes back and goes on from the last event it saw.
pub const LIVE_FRAMES_MAX: usize = 1024;
/// Event streams opened with one key or session at once: browsers open six connections to one server, scripts a few more.
pub const LIVE_STREAMS_PER_CREDENTIAL_MAX: usize = 32;
/// Event streams of one team at once: its keys are many, and the streams of one control plane are for all teams.
pub const LIVE_STREAMS_PER_TEAM_MAX: usize = 256;
/// Event streams of one control plane at once: half of the connections it takes.
pub const LIVE_STREAMS_MAX: usize = 4096;
/// How long changes of state are kept for control planes that have not looked yet.
pub const MOVES_KEPT: Duration = Duration::from_secs(120);
/// Wait for one batch of sandboxes that frames show; without it they are told without.
pub const LIVE_HYDRATE_MAX: Duration = Duration::from_secs(5);

/// Between two measurements of a sandbox.
pub const METRICS_EVERY: Duration = Duration::from_millis(500);
/// Points kept of each sandbox: ten minutes of measurements, two hours of averages over 30 s, a day of averages over 5 min. All
/// three are 1728 points of 16 bytes, 27 KiB in memory while it runs and 24 KiB on disk.
pub const METRICS_FINE_POINTS: usize = 1200;
pub const METRICS_MIDDLE_POINTS: usize = 240;
pub const METRICS_COARSE_POINTS: usize = 288;
/// Between two writes of a running sandbox's points to its directory: what a killed agent loses of them.
pub const METRICS_KEPT_EVERY: Duration = Duration::from_secs(60);
/// Asking a host how much disk a sandbox uses, while somebody waits for that sandbox's description; left out when it takes longer.
pub const DISK_USED_WAIT_MAX: Duration = Duration::from_millis(300);
/// How long that answer is good for: a capsule that is looked at in a loop must not make its host work.
pub const DISK_USED_AGE_MAX: Duration = Duration::from_secs(5);
/// Such answers kept, about 50 bytes each.
pub const DISK_USED_ENTRIES_MAX: usize = 10_000;

/// Days of one question for a team's use.
pub const USAGE_DAYS_MAX: i64 = 92;
/// Days shown when none are asked for.
pub const USAGE_DAYS_DEFAULT: u64 = 30;
/// Days over which a team's peaks are taken, and the longest range of its levels.
pub const STATS_DAYS: u64 = 30;
/// How long after its end a day's use is added up for good: what a host that was away, or that nobody listened to, reports until then still
/// counts for the day it happened on. Until then it is read from the spans themselves.
pub const USAGE_SETTLED: Duration = Duration::from_secs(36 * 3600);
/// How long spans of use are kept after they ended: a few days longer than levels are shown.
pub const SPANS_KEPT: Duration = Duration::from_secs(35 * 24 * 3600);
/// How long a day's use is kept: three years, for those who settle accounts by it.
pub const USAGE_KEPT: Duration = Duration::from_secs(3 * 366 * 24 * 3600);
// Ports of guests: tunnels, the proxy, port-forward.

/// Tunnels to ports of one sandbox at once, at the agent and again in its envd: each costs two sockets and their buffers.
pub const PORT_CONNECTIONS_MAX: usize = 512;
/// Dialling a port of a guest on the same host: a busy guest answers within milliseconds.
pub const PORT_DIAL_MAX: Duration = Duration::from_secs(5);
/// Bytes a tunnel holds per direction.
pub const PORT_BUFFER_BYTES: usize = 16 * 1024;
/// Silence on a tunnel of which one side has ended, after which nobody is expected to come back for the other.
pub const PORT_HALF_CLOSED_MAX: Duration = Duration::from_secs(300);
/// Opening a tunnel from a control plane: the connection to the host and the dial there.
pub const TUNNEL_OPEN_MAX: Duration = Duration::from_secs(12);
/// Tunnels one control plane's proxy holds at once, in use or idle: half of the connections it takes, so that the proxy cannot
/// use up the descriptors of the API.
pub const PROXY_TUNNELS_MAX: usize = 4096;
/// Tunnels to one capsule at once: fewer than its agent takes, and more than a port-forward carries.
pub const PROXY_TUNNELS_PER_SANDBOX_MAX: usize = 384;
/// Tunnels to all capsules of one team at once.
pub const PROXY_TUNNELS_PER_TEAM_MAX: usize = 1536;
/// Idle tunnels kept per capsule and port: as many as a busy page's browser opens, a few times over.
pub const PROXY_IDLE_PER_PORT_MAX: usize = 32;
/// How long an idle tunnel is kept; below the five seconds after which common servers (Node, uvicorn) hang up.
pub const PROXY_IDLE_KEPT: Duration = Duration::from_secs(4);
/// Bytes of a head a guest may answer with, and of the buffer a proxied connection reads into.
pub const PROXY_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Time a guest has to begin its answer: long polls and slow models are real, forgotten requests too.
pub const PROXY_ANSWER_MAX: Duration = Duration::from_secs(3600);
/// Database look-ups for proxied requests at once: anybody may send names that do not exist, and the API needs the connections.
pub const PROXY_LOOKUPS_MAX: usize = 4;
/// Such look-ups for one network, or one team, at once.
pub const PROXY_LOOKUPS_PER_PARTY_MAX: usize = 2;
/// Age at which a capsule's host is looked up again. Its agent refuses what is no longer running, whatever is remembered here.
pub const ROUTE_AGE_MAX: Duration = Duration::from_secs(10);
/// Capsules whose host is remembered, about 150 bytes each.
pub const ROUTES_MAX: usize = 10_000;
/// How long a request is held while its capsule starts or resumes; below the minute at which clients and proxies cut.
pub const RESUME_HOLD_MAX: Duration = Duration::from_secs(50);
/// Requests held at once by one control plane.
pub const HELD_REQUESTS_MAX: usize = 1024;
/// Requests held at once for one capsule: a page's worth of several browsers.
pub const HELD_REQUESTS_PER_SANDBOX_MAX: usize = 128;
/// HTTP/2 streams of one connection at once.
pub const H2_STREAMS_MAX: u32 = 100;
/// Bytes of an HTTP/2 request's headers, as HTTP/1.1's buffer bounds them.
pub const H2_HEAD_BYTES_MAX: u32 = 64 * 1024;
/// Bytes a client may send ahead on one HTTP/2 stream, and on all streams of a connection together.
pub const H2_STREAM_AHEAD_BYTES: u32 = 256 * 1024;
pub const H2_CONNECTION_AHEAD_BYTES: u32 = 1024 * 1024;
/// Connections one `wrenn port-forward` carries at once.
pub const FORWARD_CONNECTIONS_MAX: usize = 256;
/// Time from the first byte of a connection's first request to the end of its head: whoever began to speak is not a balancer that
/// keeps a connection for later.
pub const FIRST_HEAD_MAX: Duration = Duration::from_secs(10);
/// Notification channels of one team.
pub const CHANNELS_PER_TEAM_MAX: i64 = 20;
/// Bytes of one value a channel is configured with.
pub const CHANNEL_VALUE_BYTES_MAX: usize = 2048;
/// Calls of channels under way at once, one to each channel: a slow one holds up itself, and a team's channels are few.
pub const CHANNEL_CALLS_MAX: usize = 64;
/// One call of a channel, connection included.
pub const CHANNEL_CALL_MAX: Duration = Duration::from_secs(10);
/// Events that wait for one channel; what comes while so many wait is not sent to it.
pub const CHANNEL_WAITING_MAX: i64 = 1000;
/// First pause after a channel did not take an event; it doubles up to `CHANNEL_RETRY_MAX`.
pub const CHANNEL_RETRY_MIN: Duration = Duration::from_secs(10);
pub const CHANNEL_RETRY_MAX: Duration = Duration::from_secs(3600);
/// Tries to send one event to one channel: with the pauses above it may be away for three hours.
pub const CHANNEL_TRIES_MAX: u32 = 12;
/// Tries when the channel answers each time that it does not want this very event.
pub const CHANNEL_REFUSALS_MAX: u32 = 3;
