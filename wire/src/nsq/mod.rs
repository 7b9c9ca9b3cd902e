//! The V2 protocol between a node and its clients.
//!
//! A client opens with [`MAGIC_V2`], then sends commands; [`Decoder`] finds them in a growing buffer and
//! borrows their bodies from it. A node answers in frames: [`put_frame`] for replies and errors,
//! [`put_message`] for messages, whose frame is also what the journal stores. The `put_*` commands and
//! [`FrameDecoder`] are the client's side of the same bytes. All binary integers are big-endian.

mod command;
mod decode;
mod encode;
mod error;
mod frame;
mod identify;
mod message;
mod publish;

pub use command::{Command, Messages, Phase, Rules};
pub use decode::{Decoded, Decoder, LINE_LEN_MAX, Need};
pub use encode::{
    put_auth, put_close, put_deferred_publish, put_finish, put_identify, put_multi_publish, put_nop,
    put_publish, put_ready, put_requeue, put_subscribe, put_touch,
};
pub use error::ClientError;
pub use frame::{
    CLOSE_WAIT_FRAME, Frame, FrameDecoder, FrameError, FrameType, HEARTBEAT_FRAME, OK_FRAME, put_frame,
};
pub use identify::{Identify, IdentifyLimits, IdentifyReply};
pub(crate) use identify::{fold, set};
pub use message::{
    MESSAGE_OVERHEAD, MessageView, message_frame_len, put_message, set_attempts, set_message_id,
};

/// What a client must send before its first command.
pub const MAGIC_V2: [u8; 4] = *b"  V2";
