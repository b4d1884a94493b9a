// What the tiles of matmul.wgsl are held as in workgroup memory. Where the device has shader-f16, tile_f16.wgsl is prepended.

alias Element = f32;
alias Quad = vec4f;
