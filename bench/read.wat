(module (memory (export "memory") 3906)
 (func (export "fill") (memory.fill (i32.const 0) (i32.const 1) (i32.const 255983616)))
 (func (export "read") (result i32) (local $p i32) (local $a v128)
  (loop $l
   (local.set $a (v128.xor (local.get $a) (v128.xor (v128.xor (v128.load (local.get $p)) (v128.load offset=16 (local.get $p))) (v128.xor (v128.load offset=32 (local.get $p)) (v128.load offset=48 (local.get $p))))))
   (br_if $l (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 64))) (i32.const 255983616))))
  (i32x4.extract_lane 0 (local.get $a))))
