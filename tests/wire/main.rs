//! Both borrowed decoders against prost's, and the judgement of native histograms.

mod histogram;
mod v1;
mod v2;
