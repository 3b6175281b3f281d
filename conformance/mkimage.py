#!/usr/bin/env python3
"""mkimage.py NAME:TAG ROOTFS[,ROOTFS...] OUT.tar [--entrypoint JSON] [--cmd JSON] [--env K=V] [--user U] [--expose]
Writes a docker-archive from one or more folders (each a layer)."""
import sys, json, hashlib, subprocess, os, tarfile, io, argparse
p=argparse.ArgumentParser(); p.add_argument('name'); p.add_argument('layers'); p.add_argument('out')
p.add_argument('--entrypoint',default='null'); p.add_argument('--cmd',default='null'); p.add_argument('--user',default=''); p.add_argument('--workdir',default='')
a=p.parse_args(); os.makedirs('blobs',exist_ok=True)
names=[];diffs=[]
for d in a.layers.split(','):
    t=f'blobs/{os.path.basename(d.rstrip("/"))}.layer.tar'
    if not os.path.exists(t):
        subprocess.check_call(['tar','--numeric-owner','--sort=name','--mtime=@0','-C',d,'-cf',t,'.'])
    h=hashlib.file_digest(open(t,'rb'),'sha256').hexdigest(); names.append((h+'/layer.tar',t)); diffs.append('sha256:'+h)
cfg={'architecture':'amd64','os':'linux','created':'2026-01-01T00:00:00Z','config':{'Env':['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'],'Entrypoint':json.loads(a.entrypoint),'Cmd':json.loads(a.cmd),'User':a.user,'WorkingDir':a.workdir},'rootfs':{'type':'layers','diff_ids':diffs},'history':[{'created':'2026-01-01T00:00:00Z','created_by':'mk'} for _ in diffs]}
c=json.dumps(cfg).encode(); ch=hashlib.sha256(c).hexdigest()
m=json.dumps([{'Config':ch+'.json','RepoTags':a.name.split(','),'Layers':[n for n,_ in names]}]).encode()
with tarfile.open(a.out,'w') as t:
    def add(n,b):
        i=tarfile.TarInfo(n); i.size=len(b); t.addfile(i,io.BytesIO(b))
    add(ch+'.json',c)
    for n,f in names: t.add(f,n)
    add('manifest.json',m)
print(a.out, os.path.getsize(a.out)>>20,'MiB')
