//! `model.safetensors`: its header, and its numbers drawn and written on all cores.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::values::Values;
use crate::checkpoint::{ExpectedTensor, expected, framed};
use crate::config::{Architecture, PolicyConfig};
use crate::{Error, Result};

/// Name of the file in a checkpoint's folder.
pub(super) const FILE: &str = "model.safetensors";
/// Numbers a thread draws and writes at once.
const JOB: usize = 1 << 19;

/// A weights file yet to be written.
pub(super) struct Plan {
    seed: u64,
    /// In the order of the file.
    tensors: Vec<Placed>,
    header: Vec<u8>,
    data_size_bytes: u64,
}

/// A tensor and where in the file its numbers begin.
struct Placed {
    tensor: ExpectedTensor,
    offset: u64,
}

/// Some consecutive numbers of one tensor.
struct Job<'a> {
    placed: &'a Placed,
    start: usize,
    count: usize,
}

impl Plan {
    /// Lays out the state dict as Python's safetensors does: wider element types first, then by name.
    pub(super) fn new(seed: u64, policy: &PolicyConfig, architecture: &Architecture) -> Result<Self> {
        let mut tensors = expected(policy, architecture);
        tensors.sort_by(|a, b| b.full_precision.cmp(&a.full_precision).then_with(|| a.name.cmp(&b.name)));
        let mut infos = Vec::with_capacity(tensors.len());
        let mut end = 0;
        for tensor in &tensors {
            let start = end;
            end += tensor.elements() * element_size(tensor);
            let dtype = if tensor.full_precision { Dtype::F32 } else { Dtype::BF16 };
            infos.push((
                tensor.name.clone(),
                TensorInfo { dtype, shape: tensor.shape(), data_offsets: (start, end) },
            ));
        }
        let header = header(&infos).map_err(|reason| Error::Corrupt { file: FILE.into(), reason })?;
        let placed = tensors.into_iter().zip(&infos).map(|(tensor, (_, info))| Placed {
            tensor,
            offset: (header.len() + info.data_offsets.0) as u64,
        });
        Ok(Self { seed, tensors: placed.collect(), header, data_size_bytes: end as u64 })
    }

    pub(super) fn tensors(&self) -> usize {
        self.tensors.len()
    }

    pub(super) fn parameters(&self) -> usize {
        self.tensors.iter().map(|placed| placed.tensor.elements()).sum()
    }

    pub(super) fn file_size_bytes(&self) -> u64 {
        self.header.len() as u64 + self.data_size_bytes
    }

    /// Writes the file; `progress` hears of bytes written and bytes in all.
    pub(super) fn write(&self, path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let mut file = File::create(path).map_err(Error::io("create", path))?;
        file.write_all(&self.header).map_err(Error::io("write", path))?;
        let total = self.file_size_bytes();
        file.set_len(total).map_err(Error::io("write", path))?;
        let mut done = self.header.len() as u64;
        progress(done, total);

        let jobs: Vec<Job<'_>> = self.tensors.iter().flat_map(Placed::jobs).collect();
        let next = AtomicUsize::new(0);
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(jobs.len());
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            for _ in 0..threads {
                let sender = sender.clone();
                scope.spawn(|| self.work(path, &jobs, &next, sender));
            }
            drop(sender);
            for written in receiver {
                done += written?;
                progress(done, total);
            }
            Ok(())
        })
    }

    /// One thread: takes jobs until none is left or nobody listens any more.
    fn work(&self, path: &Path, jobs: &[Job<'_>], next: &AtomicUsize, sender: mpsc::Sender<Result<u64>>) {
        let mut file = match File::options().write(true).open(path) {
            Ok(file) => file,
            Err(error) => {
                // A send fails only where another thread's failure has ended the write.
                let _ = sender.send(Err(Error::io("write", path)(error)));
                return;
            }
        };
        let mut buffer = Vec::new();
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let size = element_size(&job.placed.tensor);
            buffer.resize(job.count * size, 0);
            let values = Values::new(self.seed, &job.placed.tensor);
            if job.placed.tensor.full_precision {
                values.write_f32(job.start, &mut buffer);
            } else {
                values.write_bf16(job.start, &mut buffer);
            }
            let offset = job.placed.offset + (job.start * size) as u64;
            let written = file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(&buffer));
            let written = written.map(|()| buffer.len() as u64).map_err(Error::io("write", path));
            if sender.send(written).is_err() {
                return;
            }
        }
    }
}

impl Placed {
    fn jobs(&self) -> impl Iterator<Item = Job<'_>> {
        let elements = self.tensor.elements();
        (0..elements).step_by(JOB).map(move |start| Job {
            placed: self,
            start,
            count: JOB.min(elements - start),
        })
    }
}

fn element_size(tensor: &ExpectedTensor) -> usize {
    if tensor.full_precision { 4 } else { 2 }
}

/// The header with its length in front, padded so that the numbers are aligned.
fn header(infos: &[(String, TensorInfo)]) -> Result<Vec<u8>, String> {
    // LeRobot writes no metadata either.
    let metadata = Metadata::new(None, infos.to_vec()).map_err(|error| error.to_string())?;
    serde_json::to_vec(&metadata).map(framed).map_err(|error| error.to_string())
}
